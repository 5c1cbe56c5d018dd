"""What the commands that steer have in common: their options, and how names on the command line become objects."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from feynkac.base.errors import ArgumentError

Particles: TypeAlias = Annotated[int, typer.Option("--particles", "-n", help="Number of particles.")]
Algorithm: TypeAlias = Annotated[
    str, typer.Option(help="smc, importance, best_of_n, beam or gibbs; see feynkac.steer.")
]
Resampler: TypeAlias = Annotated[str, typer.Option(help="The resampling scheme.")]
EssThreshold: TypeAlias = Annotated[float, typer.Option(help="Resample below this fraction of particles.")]
Islands: TypeAlias = Annotated[int, typer.Option(help="Populations that never mix; 2 or more give a standard error.")]
Sweeps: TypeAlias = Annotated[int | None, typer.Option(help="Sweeps of gibbs, 10 if left out.")]
Seed: TypeAlias = Annotated[int | None, typer.Option(help="Repeat a run.")]
Dtype: TypeAlias = Annotated[str, typer.Option(help="auto, float32, bfloat16, ...")]
Device: TypeAlias = Annotated[str | None, typer.Option(help="cpu, cuda, ...")]
Out: TypeAlias = Annotated[Path | None, typer.Option(help="Write the result to this JSON file.")]
Arg: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--arg", "-a", metavar="KEY=VALUE", help="An argument: JSON, or else a string as it stands."),
]


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


def report(result: Any, out: Path | None) -> None:
    """Show a result, and write it where that was asked for."""
    result.show()
    if out is not None:
        result.to_json(out)
