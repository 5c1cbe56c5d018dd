"""What the scores of a particle so far make of its level: the last, the largest, or their sum (Singhal et al. 2025)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.words import is_word

Kind: TypeAlias = Literal["difference", "max", "sum"]


def _take_new(past: Any, new: Any) -> Any:
    return new


def _take_larger(past: Any, new: Any) -> Any:
    return np.where(past == -np.inf, past, np.where(new == -np.inf, new, np.maximum(past, new)))  # -inf kills


FOLDS: dict[str, Callable[[Any, Any], Any]] = {
    "difference": _take_new,
    "max": _take_larger,
    "sum": np.add,
}
"""Of each kind: (what the scores so far fold to, the next score) -> what both fold to; numbers or (R,) arrays."""


def check_kind(kind: str, what: str = "reward") -> None:
    """Raises ArgumentError for an unknown kind of the potential `what`."""
    if not is_word(kind, FOLDS):
        raise ArgumentError(f"{what}(kind={quote(kind)}): choose one of {', '.join(map(repr, FOLDS))}")
