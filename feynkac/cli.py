"""The command line: `feynkac demo`, `feynkac generate` and `feynkac run`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from feynkac.errors import ArgumentError, FeynkacError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Exact steering of language models with sequential Monte Carlo.",
)  # fmt: skip

# What every command that steers takes.
Particles: TypeAlias = Annotated[int, typer.Option("--particles", "-n", help="Number of particles.")]
Algorithm: TypeAlias = Annotated[str, typer.Option(help="smc, importance or beam.")]
Resampler: TypeAlias = Annotated[str, typer.Option(help="The resampling scheme.")]
EssThreshold: TypeAlias = Annotated[float, typer.Option(help="Resample below this fraction of particles.")]
Islands: TypeAlias = Annotated[int, typer.Option(help="Populations that never mix; 2 or more give a standard error.")]
Seed: TypeAlias = Annotated[int | None, typer.Option(help="Repeat a run.")]
Dtype: TypeAlias = Annotated[str, typer.Option(help="auto, float32, bfloat16, ...")]
Device: TypeAlias = Annotated[str | None, typer.Option(help="cpu, cuda, ...")]
Out: TypeAlias = Annotated[Path | None, typer.Option(help="Write the result to this JSON file.")]


@app.command()
def demo(
    particles: Particles = 32,
    seed: Annotated[int, typer.Option(help="The same seed gives the same demo.")] = 0,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Another model: hub id or folder.")] = None,
) -> None:
    """Watch a real language model obey a pattern, a schema and a reward (under two minutes on 2 cores)."""
    from feynkac.demo import run

    run(particles, seed, model)


@app.command()
def generate(
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The text to continue.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Hub id or folder of a causal language model.")],
    regex: Annotated[str | None, typer.Option(help="The generated text matches this regular expression.")] = None,
    json_schema: Annotated[Path | None, typer.Option(help="It is valid under the JSON Schema in this file.")] = None,
    grammar: Annotated[
        Path | None, typer.Option(help="It is in the language of the Lark grammar in this file.")
    ] = None,
    reward: Annotated[list[str] | None, typer.Option(help="module:function or file.py:function of the text.")] = None,
    scale: Annotated[float, typer.Option(help="Nats for each unit of reward.")] = 1.0,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a user's message to a chat model.")] = False,
    max_tokens: Annotated[int, typer.Option(help="Generated tokens at most.")] = 100,
    at_limit: Annotated[str, typer.Option(help="What the limit means: truncate or end.")] = "truncate",
    stop: Annotated[list[str] | None, typer.Option(help="End the text with this string.")] = None,
    temperature: Annotated[float, typer.Option(help="Of the model's law.")] = 1.0,
    particles: Particles = 16,
    algorithm: Algorithm = "smc",
    resampler: Resampler = "ssp",
    ess_threshold: EssThreshold = 0.5,
    islands: Islands = 1,
    seed: Seed = None,
    dtype: Dtype = "auto",
    device: Device = None,
    out: Out = None,
) -> None:
    """Continue a prompt under constraints and rewards, and show the posterior."""
    import feynkac as fk

    potentials: list[Any] = []
    if regex is not None:
        potentials.append(fk.regex(regex))
    if json_schema is not None:
        potentials.append(fk.json_schema(_read(json_schema)))
    if grammar is not None:
        potentials.append(fk.grammar(_read(grammar)))
    potentials += [fk.reward(_function(name), scale=scale) for name in reward or []]
    lm = fk.CausalLM.from_pretrained(model, dtype=dtype, device=device)
    text, message = (None, prompt) if chat else (prompt, None)
    task = lm.prompt(
        text, chat=message, max_tokens=max_tokens, stop=stop or (), temperature=temperature, at_limit=_limit(at_limit)
    )
    options = {"resampler": resampler, "ess_threshold": ess_threshold, "islands": islands, "seed": seed}
    _report(fk.steer(task, *potentials, particles=particles, algorithm=algorithm, **options), out)


@app.command("run")
def run_program(
    name: Annotated[str, typer.Argument(metavar="FILE.py:NAME", help="A program, by file or as module:name.")],
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", "-a", metavar="KEY=VALUE", help="An argument: JSON, or else a string as it stands."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Hub id or folder of the model that the program gets as lm.")
    ] = None,
    particles: Particles = 16,
    algorithm: Algorithm = "smc",
    resampler: Resampler = "ssp",
    ess_threshold: EssThreshold = 0.5,
    islands: Islands = 1,
    seed: Seed = None,
    dtype: Dtype = "auto",
    device: Device = None,
    out: Out = None,
) -> None:
    """Run a generation program, and show the posterior of what it returns."""
    import feynkac as fk

    program, arguments = _program(name), dict(map(_argument, arg or []))
    parameters = inspect.signature(program).parameters
    if "lm" in parameters and "lm" not in arguments:
        if model is None:
            raise ArgumentError(f"{program!r} takes a model; say which with --model")
        _bound(program, {"lm": None, **arguments})  # a wrong call is told before a model is loaded
        arguments = {"lm": fk.CausalLM.from_pretrained(model, dtype=dtype, device=device), **arguments}
    elif model is not None:
        raise ArgumentError(f"{program!r} has no argument lm; leave --model out")
    task = _bound(program, arguments)
    options = {"resampler": resampler, "ess_threshold": ess_threshold, "islands": islands, "seed": seed}
    _report(fk.steer(task, particles=particles, algorithm=algorithm, **options), out)


def _report(result: Any, out: Path | None) -> None:
    result.show()
    if out is not None:
        result.to_json(out)


def _program(name: str) -> Any:
    """The program that "file.py:name" or "module:name" names."""
    from feynkac.programs.program import ProgramFunction

    found = _function(name)
    if not isinstance(found, ProgramFunction):
        raise ArgumentError(f"'{name}' is no program, but {type(found).__name__}; write @feynkac.program above its def")
    return found


def _argument(text: str) -> tuple[str, Any]:
    """The key and the value of "key=value"."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise ArgumentError(f"--arg {text!r}: write --arg key=value")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _bound(program: Any, arguments: dict[str, Any]) -> Any:
    try:
        return program(**arguments)
    except TypeError as cause:
        raise ArgumentError(f"{program!r}: {cause}; give arguments as --arg key=value") from cause


def _limit(name: str) -> Any:
    return name  # checked, with advice, by CausalLM.prompt


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise ArgumentError(f"cannot read {path}: {cause}") from cause


def _function(name: str) -> Any:
    """The object that "module:function" or "file.py:function" names."""
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise ArgumentError(f"'{name}' is no function; write module:function or file.py:function")
    try:
        if place.endswith(".py"):
            sys.path.insert(0, str(Path(place).resolve().parent))  # as a script finds what lies beside it
            spec = importlib.util.spec_from_file_location(f"file_{Path(place).stem}", place)
            assert spec is not None and spec.loader is not None
            module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            sys.path.insert(0, str(Path.cwd()))
            module = importlib.import_module(place)
        return getattr(module, attribute)
    except (ImportError, FileNotFoundError, AttributeError, SyntaxError) as cause:
        raise ArgumentError(f"cannot load '{name}': {cause}") from cause


def main() -> None:
    """The command `feynkac`: errors of ours are one line, not a traceback."""
    try:
        app()
    except FeynkacError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        partial = getattr(error, "partial", None)
        if partial is not None:
            partial.show()
        raise SystemExit(1) from None
