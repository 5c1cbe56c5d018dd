"""What the commands that steer have in common: their options, and how names on the command line become objects."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from feynkac.base.errors import ArgumentError, FeynkacError
from feynkac.commands import places
from feynkac.commands.signals import STOP, check_stop

Particles: TypeAlias = Annotated[int, typer.Option("--particles", "-n", help="Number of particles.")]
Algorithm: TypeAlias = Annotated[
    str, typer.Option(help="smc, importance, best_of_n, beam, gibbs or exact; see feynkac.steer.")
]
Resampler: TypeAlias = Annotated[str, typer.Option(help="The resampling scheme.")]
EssThreshold: TypeAlias = Annotated[float, typer.Option(help="Resample below this fraction of particles.")]
Islands: TypeAlias = Annotated[int, typer.Option(help="Populations that never mix; 2 or more give an interval.")]
Sweeps: TypeAlias = Annotated[int | None, typer.Option(help="Sweeps of gibbs, 10 if left out.")]
Seed: TypeAlias = Annotated[int | None, typer.Option(help="Repeat a run.")]
Dtype: TypeAlias = Annotated[str, typer.Option(help="auto, float32, bfloat16, ...")]
Device: TypeAlias = Annotated[str | None, typer.Option(help="cpu, cuda, ...")]
Out: TypeAlias = Annotated[Path | None, typer.Option(help="Write the result to this JSON file.")]
Report: TypeAlias = Callable[[Any], None]
Arg: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--arg", "-a", metavar="KEY=VALUE", help="An argument: JSON, or else a string as it stands."),
]

_OURS = (__file__, places.__file__)


def parse_argument(text: str) -> tuple[str, Any]:
    """The key and the value of "key=value"."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise ArgumentError(f"--arg {text!r}: write --arg key=value")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


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


def check_out(out: Path | None, option: str = "--out") -> None:
    """Find out before the run, not after it, that the file `out` cannot be written. Raises ArgumentError."""
    if out is None:
        return
    if out.is_dir():
        raise ArgumentError(f"{option} {out} is a folder; name a file in it")
    if not out.parent.is_dir():
        raise ArgumentError(f"{option} {out}: there is no folder {out.parent}")
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise ArgumentError(f"{option} {out} cannot be written: permission denied")


def check_folder(folder: Path | None, option: str) -> None:
    """The same of a `folder` to write into, which is made, with those above it, where it is missing."""
    if folder is None:
        return
    there = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
    if not there.is_dir():
        raise ArgumentError(f"{option} {folder}: {there} is no folder; name a folder, new or old")
    if not os.access(there, os.W_OK):
        raise ArgumentError(f"{option} {folder} cannot be written: permission denied for {there}")


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
    STOP.holding = True
    try:
        report(result)
    except OSError as cause:
        raise ArgumentError(f"cannot write what came out: {cause}") from cause
    finally:
        STOP.holding = False


def show_and_write(out: Path | None) -> Report:
    """A report on the terminal, and in the JSON file `out` where that was asked for."""

    def report(result: Any) -> None:
        result.show()
        if out is not None:
            result.to_json(out)

    return report
