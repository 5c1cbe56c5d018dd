"""`feynkac run`: a generation program, by its file or module."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from feynkac.base.errors import ArgumentError, quote
from feynkac.commands.options import (
    DEMO,
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
    load_model,
    parse_arguments,
    read_options,
    show_and_write,
    steer_and_report,
)
from feynkac.results.outputs import check_outputs


def run_program(
    name: Annotated[str, typer.Argument(metavar="FILE.py:NAME", help="A program, by file or as module:name.")],
    arg: Arg = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="[NAME=]MODEL",
            help="Hub id, folder or demo: the model that the program gets as NAME, or else as lm. May be repeated.",
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
    check_outputs(out or [])
    program, arguments = _find_program(name), parse_arguments(arg or [])
    options = read_options(
        algorithm=algorithm, particles=particles, islands=islands, resampler=resampler, ess_threshold=ess_threshold,
        sweeps=sweeps, seed=seed,
    )  # fmt: skip
    models = _assign_models(program, model or [], arguments)
    _bind(program, {**models, **arguments})  # a wrong call is told before a model is loaded
    task = _bind(program, {**_load(models, dtype, device), **arguments})
    steer_and_report(task, report=show_and_write(out or []), **options)


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
            raise ArgumentError(f"--model {text}: {quote(program)} has no argument {name}; {_advise(program)}")
        if name in models or name in arguments:
            raise ArgumentError(f"--model {text}: the argument {name} is given twice; leave one out")
        models[name] = path
    if "lm" in known and "lm" not in models and "lm" not in arguments:
        raise ArgumentError(f"{quote(program)} takes a model; say which with --model")
    return models


def _advise(program: Any) -> str:
    others = list(inspect.signature(program).parameters.values())[1:]
    free = [each.name for each in others if each.default is each.empty]
    return f"name one of its arguments, as in --model {free[0]}=MODEL" if free else "leave --model out"


def _load(models: dict[str, str], dtype: str, device: str | None) -> dict[str, Any]:
    """The models themselves; one that is named twice is loaded once."""
    places = {
        path: str(Path(path).resolve()) if path != DEMO and os.path.exists(path) else path for path in models.values()
    }
    found = {place: load_model(place, dtype, device) for place in set(places.values())}
    return {name: found[places[path]] for name, path in models.items()}


def _bind(program: Any, arguments: dict[str, Any]) -> Any:
    try:
        return program(**arguments)
    except TypeError as cause:
        advice = "give arguments as --arg key=value, and models as --model name=MODEL"
        raise ArgumentError(f"{quote(program)}: {cause}; {advice}") from cause
