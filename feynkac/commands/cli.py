"""The command line: `feynkac demo`, `feynkac generate`, `feynkac run` and `feynkac diffuse`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from feynkac.base.errors import ArgumentError, FeynkacError
from feynkac.commands.diffuse import diffuse
from feynkac.commands.options import (
    Algorithm,
    Arg,
    Device,
    Dtype,
    EssThreshold,
    Islands,
    Out,
    Particles,
    Resampler,
    Seed,
    Sweeps,
    find_function,
    parse_argument,
)

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Exact steering of language and diffusion models with sequential Monte Carlo.",
)  # fmt: skip


@app.command()
def demo(
    particles: Particles = 32,
    seed: Annotated[int, typer.Option(help="The same seed gives the same demo.")] = 0,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Another model: hub id or folder.")] = None,
) -> None:
    """Watch a real language model obey a pattern, a schema and a reward (under two minutes on 2 cores)."""
    from feynkac.commands.demo import run

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
    sweeps: Sweeps = None,
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
    potentials += [fk.reward(find_function(name), scale=scale) for name in reward or []]
    lm = fk.CausalLM.from_pretrained(model, dtype=dtype, device=device)
    text, message = (None, prompt) if chat else (prompt, None)
    task = lm.prompt(
        text, chat=message, max_tokens=max_tokens, stop=stop or (), temperature=temperature, at_limit=_limit(at_limit)
    )
    options = {"resampler": resampler, "ess_threshold": ess_threshold, "islands": islands, "sweeps": sweeps}
    _report(fk.steer(task, *potentials, particles=particles, algorithm=algorithm, seed=seed, **options), out)


@app.command("run")
def run_program(
    name: Annotated[str, typer.Argument(metavar="FILE.py:NAME", help="A program, by file or as module:name.")],
    arg: Arg = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="[NAME=]MODEL",
            help="Hub id or folder of the model that the program gets as NAME, or else as lm. May be repeated.",
        ),
    ] = None,
    particles: Particles = 16,
    algorithm: Algorithm = "smc",
    resampler: Resampler = "ssp",
    ess_threshold: EssThreshold = 0.5,
    islands: Islands = 1,
    sweeps: Sweeps = None,
    seed: Seed = None,
    dtype: Dtype = "auto",
    device: Device = None,
    out: Out = None,
) -> None:
    """Run a generation program, and show the posterior of what it returns."""
    import feynkac as fk

    program, arguments = _find_program(name), dict(map(parse_argument, arg or []))
    models = _assign_models(program, model or [], arguments)
    _bind(program, {**models, **arguments})  # a wrong call is told before a model is loaded
    task = _bind(program, {**_load(models, dtype, device), **arguments})
    options = {"resampler": resampler, "ess_threshold": ess_threshold, "islands": islands, "sweeps": sweeps}
    _report(fk.steer(task, particles=particles, algorithm=algorithm, seed=seed, **options), out)


app.command()(diffuse)


def _report(result: Any, out: Path | None) -> None:
    result.show()
    if out is not None:
        result.to_json(out)


def _find_program(name: str) -> Any:
    """The program that "file.py:name" or "module:name" names."""
    from feynkac.programs.program import ProgramFunction

    found = find_function(name)
    if not isinstance(found, ProgramFunction):
        raise ArgumentError(f"'{name}' is no program, but {type(found).__name__}; write @feynkac.program above its def")
    return found


def _assign_models(program: Any, given: list[str], arguments: dict[str, Any]) -> dict[str, str]:
    """The model that each argument is to be: "NAME=MODEL" for the argument NAME, "MODEL" for lm."""
    known, models = inspect.signature(program).parameters, dict[str, str]()
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not name.isidentifier():  # a path may hold an = itself: write ./a=b
            name, path = "lm", text
        if name not in list(known)[1:]:
            raise ArgumentError(f"--model {text}: {program!r} has no argument {name}; {_advise(program)}")
        if name in models or name in arguments:
            raise ArgumentError(f"--model {text}: the argument {name} is given twice; leave one out")
        models[name] = path
    if "lm" in known and "lm" not in models and "lm" not in arguments:
        raise ArgumentError(f"{program!r} takes a model; say which with --model")
    return models


def _advise(program: Any) -> str:
    others = list(inspect.signature(program).parameters.values())[1:]
    free = [each.name for each in others if each.default is each.empty]
    return f"name one of its arguments, as in --model {free[0]}=MODEL" if free else "leave --model out"


def _load(models: dict[str, str], dtype: str, device: str | None) -> dict[str, Any]:
    """The models themselves; one that is named twice is loaded once."""
    import feynkac as fk

    places = {path: str(Path(path).resolve()) if Path(path).exists() else path for path in models.values()}
    found = {place: fk.CausalLM.from_pretrained(place, dtype=dtype, device=device) for place in set(places.values())}
    return {name: found[places[path]] for name, path in models.items()}


def _bind(program: Any, arguments: dict[str, Any]) -> Any:
    try:
        return program(**arguments)
    except TypeError as cause:
        advice = "give arguments as --arg key=value, and models as --model name=MODEL"
        raise ArgumentError(f"{program!r}: {cause}; {advice}") from cause


def _limit(name: str) -> Any:
    return name  # checked, with advice, by CausalLM.prompt


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise ArgumentError(f"cannot read {path}: {cause}") from cause


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
