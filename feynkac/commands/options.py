"""What the commands that steer have in common: their options, and how names on the command line become objects."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from feynkac.base.errors import ArgumentError, FeynkacError, quote
from feynkac.commands import places
from feynkac.commands.signals import STOP, check_stop
from feynkac.results.outputs import write_outputs

DEMO = "demo"
"""The name of the demo's model on the command line; a folder of that name is ./demo."""

Particles: TypeAlias = Annotated[int, typer.Option("--particles", "-n", help="Number of particles.")]
Algorithm: TypeAlias = Annotated[
    str, typer.Option(help="smc, optimal, importance, best_of_n, beam, gibbs or exact; see feynkac.steer.")
]
Resampler: TypeAlias = Annotated[str, typer.Option(help="The resampling scheme.")]
EssThreshold: TypeAlias = Annotated[float, typer.Option(help="Resample below this fraction of particles.")]
Islands: TypeAlias = Annotated[int, typer.Option(help="Populations that never mix; 2 or more give an interval.")]
Sweeps: TypeAlias = Annotated[int | None, typer.Option(help="Sweeps of gibbs, 10 if left out.")]
Seed: TypeAlias = Annotated[int | None, typer.Option(help="Repeat a run.")]
Dtype: TypeAlias = Annotated[str, typer.Option(help="auto, float32, bfloat16, ...")]
Device: TypeAlias = Annotated[str | None, typer.Option(help="cpu, cuda, ...")]
Out: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        help="A file to write: all of the result (.json), an interactive page (.html), or a picture (.png, .pdf, "
        ".svg). May be repeated."
    ),
]
Report: TypeAlias = Callable[[Any], None]
Arg: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--arg", "-a", metavar="KEY=VALUE", help="An argument: JSON, or else a string as it stands."),
]

_OURS = (__file__, places.__file__)


def parse_arguments(texts: Iterable[str]) -> dict[str, Any]:
    """The values of "key=value", by their keys. Raises ArgumentError for a key that is given twice."""
    found = dict[str, Any]()
    for text in texts:
        key, value = parse_argument(text)
        if key in found:
            raise ArgumentError(f"--arg {quote(text)}: {key} is given twice; leave one out")
        found[key] = value
    return found


def parse_argument(text: str) -> tuple[str, Any]:
    """The key and the value of "key=value"."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise ArgumentError(f"--arg {quote(text)}: write --arg key=value")
    try:
        return key, json.loads(value, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return key, value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def find_function(name: str) -> Any:
    """The object that "module:function" or "file.py:function" names, by `places`. Raises ArgumentError in one line."""
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise ArgumentError(f"'{name}' is no function; write module:function or file.py:function")
    try:
        module = places.load_file(place) if place.endswith(".py") else places.load_module(place)
        return getattr(module, attribute)
    except (Exception, SystemExit) as cause:  # whatever the file does
        raise ArgumentError(f"cannot load '{name}': {type(cause).__name__}: {cause}{_find_line(cause)}") from cause


def _find_line(cause: BaseException) -> str:
    """Where the user's file raised, if it was that."""
    trace = traceback.extract_tb(cause.__traceback__)
    raised = [line for line in trace if "importlib" not in line.filename and line.filename not in _OURS]
    return f" (line {raised[-1].lineno} of {raised[-1].filename})" if raised else ""


def read_options(**options: Any) -> dict[str, Any]:
    """The options of `steer` as they are given, all of a `Plan` and the seed.

    Raises ArgumentError for what cannot be: before a model is loaded, which may take minutes.
    """
    from feynkac.smc.rng import Streams
    from feynkac.steering.algorithms import Plan

    Streams(options["seed"])
    Plan(**{name: value for name, value in options.items() if name != "seed"}).resample()
    return options


def steer_and_report(
    task: Any, *potentials: Any, report: Report, observers: Iterable[Any] = (), **options: Any
) -> None:
    """Run and `report` the result, also what there is after an error or a signal."""
    import feynkac as fk

    try:
        result = fk.steer(task, *potentials, observers=[check_stop, *observers], **options)
    except FeynkacError as error:
        if error.partial is not None:
            _hold(report, error.partial)
            error.partial = None  # it has been shown
        raise
    _hold(report, result)


def _hold(report: Report, result: Any) -> None:
    """Report what there is, undisturbed: a signal now would lose what it asks to keep."""
    STOP.holding = STOP.kept = True
    try:
        report(result)
    except BrokenPipeError:  # whoever reads has seen enough: typer ends in silence
        raise
    except OSError as cause:
        raise ArgumentError(f"cannot write what came out: {cause}") from cause
    finally:
        STOP.holding = False


def show_and_write(out: list[Path]) -> Report:
    """A report on the terminal, and in the files `out`, which are written whatever becomes of the terminal."""

    def report(result: Any) -> None:
        try:
            result.show()
        finally:
            write_outputs(result, out)
        tell_written(out)

    return report


def tell_written(paths: Iterable[Path | None]) -> None:
    """Say which files there are now."""
    if written := [str(path) for path in paths if path is not None]:
        typer.echo(f"wrote {', '.join(written)}")


def load_model(name: str, dtype: str, device: str | None) -> Any:
    """The language model that a command line names: a hub id, a folder, or "demo", which is `CausalLM.demo`."""
    import feynkac as fk

    if name != DEMO:
        return fk.CausalLM.from_pretrained(name, dtype=dtype, device=device)
    return fk.CausalLM.demo(device=device) if dtype == "auto" else fk.CausalLM.demo(dtype=dtype, device=device)
