"""The command line: `feynkac demo` and `feynkac generate`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from feynkac.errors import ArgumentError, FeynkacError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Exact steering of language models with sequential Monte Carlo.",
)  # fmt: skip


@app.command()
def demo(
    particles: Annotated[int, typer.Option("--particles", "-n", help="Particles in each run.")] = 32,
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
    particles: Annotated[int, typer.Option("--particles", "-n", help="Number of particles.")] = 16,
    algorithm: Annotated[str, typer.Option(help="smc, importance or beam.")] = "smc",
    resampler: Annotated[str, typer.Option(help="The resampling scheme.")] = "ssp",
    ess_threshold: Annotated[float, typer.Option(help="Resample below this fraction of particles.")] = 0.5,
    islands: Annotated[int, typer.Option(help="Populations that never mix; 2 or more give a standard error.")] = 1,
    seed: Annotated[int | None, typer.Option(help="Repeat a run.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, ...")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result to this JSON file.")] = None,
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
    result = fk.steer(
        task, *potentials, particles=particles, algorithm=algorithm, resampler=resampler,
        ess_threshold=ess_threshold, islands=islands, seed=seed,
    )  # fmt: skip
    result.show()
    if out is not None:
        result.to_json(out)


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
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            sys.path.insert(0, str(Path.cwd()))
            module = importlib.import_module(place)
        return getattr(module, attribute)
    except (ImportError, FileNotFoundError, AttributeError) as cause:
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
