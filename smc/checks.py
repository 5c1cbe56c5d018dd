"""What the engine checks rather than trusts."""

from __future__ import annotations

from typing import Any

import numpy as np

from feynkac.errors import FeynkacError, PotentialError, WeightError
from feynkac.smc.protocols import LogW, Mask, Rows


def name_of(potential: Any) -> str:
    """The name that errors give a potential."""
    return getattr(potential, "name", None) or type(potential).__name__


def checked(
    values: Any, *, source: str, what: str, t: int | None, rows: Rows, error: type[FeynkacError] = PotentialError
) -> LogW:
    """The (R,) log-weights that `source` returned for `rows`, or an error that names source, step and row.

    Raises `error` for a wrong shape, for NaN and for +inf; -inf is death, and legal.
    """
    where = f"'{source}'.{what}" + (f" at step {t}" if t is not None else "")
    try:
        result = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as cause:
        raise error(f"{where} returned {type(values).__name__}; return an array of {len(rows)} log-weights") from cause
    if result.shape != (len(rows),):
        raise error(f"{where} returned shape {result.shape} for {len(rows)} rows; return one log-weight a row")
    bad = np.isnan(result) | (result == np.inf)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise error(f"{where} returned {result[first]} for row {rows[first]}; return -inf to kill a particle")
    return result


def checked_increment(increment: Any, *, model: Any, t: int, n: int, finished: Mask) -> LogW:
    """The (N,) increments of `model.step`, or a WeightError; finished rows must not gain or lose weight."""
    rows = np.arange(n)
    increment = checked(increment, source=name_of(model), what="step", t=t, rows=rows, error=WeightError)
    moved = finished & (increment != 0.0)
    if moved.any():
        raise WeightError(
            f"'{name_of(model)}'.step at step {t} returned {increment[moved][0]} for row {np.flatnonzero(moved)[0]}, "
            "which has finished; finished rows stay as they are, with increment 0"
        )
    return increment
