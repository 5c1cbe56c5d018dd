"""Checks of what models, potentials and moves return to the engine."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeAlias, TypeVar

import numpy as np

from feynkac.base.capabilities import Named, has, offers
from feynkac.base.contract import LogW, Mask, Model, Potential, Rows, State
from feynkac.base.errors import (
    ArgumentError,
    FeynkacError,
    ModelError,
    PotentialError,
    WeightError,
    is_out_of_memory,
    quote,
)
from feynkac.base.lists import as_list

T = TypeVar("T")
Fault: TypeAlias = type[FeynkacError]


def name_of(potential: Any) -> str:
    """The name that errors give a potential, a model or a move."""
    if has(potential, Named) and isinstance(potential.name, str) and potential.name:
        return potential.name
    return potential.__name__ if isinstance(potential, FunctionType) else type(potential).__name__


FAULTS = (Exception, SystemExit, GeneratorExit, CancelledError)
"""What code of others may raise and the run tells as an error of its own: all but Ctrl-C and the end of a greenlet."""


def call(
    function: Callable[..., T],
    *args: Any,
    of: Any,
    what: str = "",
    t: int | None = None,
    error: Fault = ModelError,
) -> T:
    """`function(*args)`, which is the method `what` of an object that a user may have written, or the object itself.

    Whatever it raises arrives as `error`, with the cause chained, the name of the object and the step; an error of ours
    stays what it is, and is told the step.
    """
    try:
        return function(*args)
    except FeynkacError as known:
        known.step = t if known.step is None else known.step
        raise
    except FAULTS as cause:  # some of which would end the process, and lose the particles
        where = f"'{name_of(of)}'" + (f".{what}" if what else "") + ("" if t is None else f" at step {t}")
        less = "; use fewer particles, shorter samples or a smaller batch" if is_out_of_memory(cause) else ""
        unknown = error(f"{where} raised {type(cause).__name__}: {cause}{less}")
        unknown.step = t
        raise unknown from cause


def check_parts(model: Any, potential: Any, resample: Any) -> None:
    """Raises ArgumentError for what is no model, no potential or no resampler."""
    for name, thing, kind, has_ in (
        ("model", model, Model, "init(n, rng), step(t, state, rng) and done(state)"),
        ("potential", potential, Potential, "level(t, state, rows) and final(state, rows)"),
    ):
        if not offers(thing, kind):
            raise ArgumentError(f"smc: {quote(thing)} is no {name}; it has the methods {has_}")
    check_resampler("smc: resample", resample)


def check_resampler(name: str, resample: Any) -> None:
    """Raises ArgumentError by the `name` of the argument for what is no function, such as the name of a scheme."""
    if isinstance(resample, type) or not callable(resample):
        raise ArgumentError(f"{name} is {quote(resample)}; give a resampler, such as feynkac.smc.resample.ssp")


def read_moves(moves: Any) -> tuple[Any, ...]:
    """Moves in their order. Raises ArgumentError for what are none."""
    listed = as_list(moves)
    if listed is None or any(isinstance(each, type) or not callable(each) for each in listed):
        raise ArgumentError(f"smc: moves is {quote(moves)}; give a list of functions (t, state, level, alive, rng)")
    return tuple(listed)


def check_log_weights(
    values: Any, *, source: str, what: str, t: int | None, rows: Rows, error: Fault = PotentialError
) -> LogW:
    """The (R,) log-weights that `source` returned for `rows`, or an error that names source, step and row.

    Raises `error` for a wrong shape, for NaN and for +inf; -inf is death, and legal.
    """
    where = f"'{source}'.{what}" + (f" at step {t}" if t is not None else "")
    try:
        if isinstance(values, np.ma.MaskedArray):
            values = np.ma.filled(values.astype(np.float64), np.nan)
        given: Any = np.asarray(values)
        is_complex = given.dtype.kind == "c"
        result = np.asarray(given.real if is_complex else given, dtype=np.float64)
    except Exception as cause:
        raise error(f"{where} returned {type(values).__name__}; return an array of {len(rows)} log-weights") from cause
    if is_complex:
        raise error(f"{where} returned complex numbers; return an array of {len(rows)} log-weights")
    if result.shape != (len(rows),):
        raise error(f"{where} returned shape {result.shape} for {len(rows)} rows; return one log-weight a row")
    bad = np.isnan(result) | (result == np.inf)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise error(f"{where} returned {result[first]} for row {rows[first]}; return -inf to kill a particle")
    return result


def check_pair(values: Any, *, of: Any, what: str, t: int, wanted: str) -> tuple[Any, Any]:
    """The two values that `what` of an object returned. Raises WeightError for anything else."""
    if not (isinstance(values, tuple | list) and len(values) == 2):
        raise WeightError(f"'{name_of(of)}'{what} at step {t} returned {type(values).__name__}; return {wanted}")
    return values[0], values[1]


def check_size(state: State, *, model: Any, what: str, n: int) -> State:
    """The state that `what` of a model returned, which must have `n` rows. Raises WeightError."""
    if call(len, state, of=state, what="__len__") != n:
        raise WeightError(
            f"'{name_of(model)}'.{what} returned a state of length {len(state)} where there are {n} rows; len(state) "
            "is the number of rows"
        )
    return state


def check_increment(increment: Any, *, model: Any, what: str = "step", t: int, n: int, finished: Mask) -> LogW:
    """The (N,) increments of `model.step`, or a WeightError; finished rows must not gain or lose weight."""
    rows = np.arange(n)
    increment = check_log_weights(increment, source=name_of(model), what=what, t=t, rows=rows, error=WeightError)
    moved = finished & (increment != 0.0)
    if moved.any():
        raise WeightError(
            f"'{name_of(model)}'.{what} at step {t} returned {increment[moved][0]} for row {np.flatnonzero(moved)[0]}, "
            "which has finished; finished rows stay as they are, with increment 0"
        )
    return increment


def check_done(done: Any, *, model: Any, t: int, finished: Mask) -> Mask:
    """The (N,) rows that have finished by step `t`; a finished row stays finished."""
    result = np.asarray(done, dtype=np.bool_)
    if result.shape != finished.shape:
        raise WeightError(
            f"'{name_of(model)}'.done at step {t} returned shape {result.shape} for {len(finished)} rows; "
            "return one truth value a row"
        )
    return finished | result


def check_levels(levels: Any, *, move: Any, t: int, log_weight: LogW) -> LogW:
    """The (N,) levels that a move returned; a move keeps its target, so it cannot kill a live row."""
    rows = np.arange(len(log_weight))
    levels = check_log_weights(levels, source=name_of(move), what="move", t=t, rows=rows, error=WeightError)
    killed = (levels == -np.inf) & (log_weight > -np.inf)
    if killed.any():
        raise WeightError(
            f"'{name_of(move)}'.move at step {t} returned level -inf for live row {np.flatnonzero(killed)[0]}; "
            "a move must leave the target so far invariant"
        )
    return np.where(log_weight == -np.inf, 0.0, levels)
