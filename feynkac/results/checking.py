"""Is a value a `Result`? Files come from anywhere: what is in one is held to what `Result` says of its fields."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.base.errors import quote

if TYPE_CHECKING:
    from feynkac.results.history import History
    from feynkac.results.result import Result

_LARGEST = 2**63
"""Whole numbers are counts and seeds: none is larger."""
_HUGE = 1e100
"""Nats and seconds that are finite are smaller; beyond, squares overflow."""


def check_result(result: Result) -> None:
    """Raises ValueError where a field is not of its type, or fields do not go together."""
    check_types(result)
    n, weights = len(result.samples), result.log_weights
    if not n or weights.shape != (n,):
        raise ValueError(f"there are {n} samples, and log_weights of shape {weights.shape}")
    if np.isnan(weights).any() or (weights == np.inf).any() or math.isnan(result.log_evidence):
        raise ValueError("weights are numbers below infinity")
    if (result.log_evidence == -math.inf) != bool((weights == -np.inf).all()):
        raise ValueError(f"log_evidence is {result.log_evidence}, which these weights do not add up to")
    for name in ("log_probs", "token_log_probs"):
        if (told := getattr(result, name)) is not None and len(told) != n:
            raise ValueError(f"{name} has {len(told)} entries for {n} samples")
    if result.diagnostics is not None and not result.diagnostics.log_parts:
        raise ValueError("diagnostics.log_parts is empty")
    _check_history(result.history)


def _check_history(history: History) -> None:
    steps = len(history.ess)
    if not steps or any(len(each) != steps for each in (history.log_evidence, history.unique_ancestors, history.rows)):
        raise ValueError("the entries of history are not of one number of steps")
    sizes = [len(rows) for rows in history.rows]
    for name in ("levels", "pieces", "log_probs", "increments", "log_weights", "carried", "killers"):
        if (column := getattr(history, name)) and [len(each) for each in column] != sizes:
            raise ValueError(f"history.{name} is not of one entry for each particle and step")
    if history.moved and len(history.moved) != steps:
        raise ValueError(f"history.moved has {len(history.moved)} steps of {steps}")
    if not all(0.0 <= ess <= len(rows) + 1e-6 * len(rows) for ess, rows in zip(history.ess, history.rows, strict=True)):
        raise ValueError("history.ess holds what is no number of particles")
    for name, listed in (("resampled", history.resampled), ("sweeps", history.sweeps)):
        if not all(0 <= t < steps for t in listed):
            raise ValueError(f"history.{name} names a step that there is not")
    _check_rows(history.rows, set(history.sweeps))


def _check_rows(rows: Sequence[Sequence[int]], starts: set[int]) -> None:
    """Each parent stands in the population of the step before, but for where a run begins."""
    for t, parents in enumerate(rows):
        known = len(parents) if t == 0 or t in starts else len(rows[t - 1])
        if not parents or not all(0 <= parent < known for parent in parents):
            raise ValueError(f"history.rows[{t}] names a parent that there is not")


def check_types(value: Any, name: str = "") -> None:
    """Raises ValueError where a field of the dataclass `value`, or of one in it, is not of its declared type."""
    hints = typing.get_type_hints(type(value))
    for each in fields(value):
        inner, place = getattr(value, each.name), f"{name}{each.name}"
        if not _fits(inner, hints[each.name]):
            raise ValueError(f"{place} is {quote(inner)}, which is not of the type {each.type}")
        if is_dataclass(inner):
            check_types(inner, f"{place}.")


def _fits(value: Any, hint: Any) -> bool:
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or kind is Callable:
        return True
    if kind in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in parts)
    if kind is list:
        return isinstance(value, list) and all(_fits(each, parts[0]) for each in value)
    if kind is tuple:
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(_fits, value, parts))
    if kind is dict:
        return isinstance(value, dict) and all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
    if kind is np.ndarray:
        return isinstance(value, np.ndarray) and all(_fits(each, float) for each in value.ravel().tolist())
    if hint is float:
        return (isinstance(value, float) and not _HUGE < abs(value) < math.inf) or _fits(value, int)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST
    return isinstance(value, kind or hint) if hint is not None else value is None
