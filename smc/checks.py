"""Checks of what models, potentials and moves return to the engine."""

from __future__ import annotations

from types import FunctionType
from typing import Any

import numpy as np

from feynkac.base.capabilities import Named, has
from feynkac.base.contract import LogW, Mask, Rows, State
from feynkac.base.errors import FeynkacError, PotentialError, WeightError


def name_of(potential: Any) -> str:
    """The name that errors give a potential, a model or a move."""
    if has(potential, Named) and potential.name:
        return potential.name
    return potential.__name__ if isinstance(potential, FunctionType) else type(potential).__name__


def check_log_weights(
    values: Any, *, source: str, what: str, t: int | None, rows: Rows, error: type[FeynkacError] = PotentialError
) -> LogW:
    """The (R,) log-weights that `source` returned for `rows`, or an error that names source, step and row.

    Raises `error` for a wrong shape, for NaN and for +inf; -inf is death, and legal.
    """
    where = f"'{source}'.{what}" + (f" at step {t}" if t is not None else "")
    try:
        result = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as cause:
        raise error(f"{where} returned {type(values).__name__}; return an array of {len(rows)} log-weights") from cause
    if result.shape != (len(rows),):
        raise error(f"{where} returned shape {result.shape} for {len(rows)} rows; return one log-weight a row")
    bad = np.isnan(result) | (result == np.inf)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise error(f"{where} returned {result[first]} for row {rows[first]}; return -inf to kill a particle")
    return result


def check_size(state: State, *, model: Any, what: str, n: int) -> State:
    """The state that `what` of a model returned, which must have `n` rows. Raises WeightError."""
    if len(state) != n:
        raise WeightError(
            f"'{name_of(model)}'.{what} returned a state of length {len(state)} where there are {n} rows; len(state) "
            "is the number of rows"
        )
    return state


def check_increment(increment: Any, *, model: Any, t: int, n: int, finished: Mask) -> LogW:
    """The (N,) increments of `model.step`, or a WeightError; finished rows must not gain or lose weight."""
    rows = np.arange(n)
    increment = check_log_weights(increment, source=name_of(model), what="step", t=t, rows=rows, error=WeightError)
    moved = finished & (increment != 0.0)
    if moved.any():
        raise WeightError(
            f"'{name_of(model)}'.step at step {t} returned {increment[moved][0]} for row {np.flatnonzero(moved)[0]}, "
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
