"""Where an edit acts, as a function of absolute positions, and how strongly."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import as_real, as_whole
from feynkac.base.words import is_word
from feynkac.models.language.editing import Change, Prepared, Span, Where


@dataclass(frozen=True)
class Steps:
    """The decisions on new tokens `first` to `last`, counted from 0 and both included; None: all from `first` on.

    Decision 0 is made at the prompt's last token, so that negative numbers are the prompt's tokens before that:
    `Steps(-2, 0)` are its last three. Raises ArgumentError where there are none.
    """

    first: int = 0
    last: int | None = None

    def __post_init__(self) -> None:
        first, last = as_whole(self.first), None if self.last is None else as_whole(self.last)
        if first is None or (self.last is not None and (last is None or last < first)):
            raise ArgumentError(
                f"Steps({quote(self.first)}, {quote(self.last)}) has no steps; give whole numbers, the last not before "
                "the first"
            )


Scope: TypeAlias = 'Literal["all", "prompt", "response", "text"] | Steps | Span | range'
"""The positions at which an edit acts.

"all": every token. "prompt": the prompt's tokens. "response": from the prompt's last token on, which decides on the
first new one. "text": from the first new token on. `Steps`: decisions on new tokens by number. `Span`: a part of the
prompt. `range`: positions from the beginning of the text on.
"""
Strength: TypeAlias = "float | Callable[[Tensor], Tensor]"
"""A number, or a function from (F, Q) steps to (F, Q) numbers: step 0 decides on the first new token."""
_NAMES = ("all", "prompt", "response", "text")


def check_scope(scope: Any) -> None:
    """Raises ArgumentError for anything that is no scope."""
    if isinstance(scope, range):
        if scope.step != 1 or scope.start < 0 or len(scope) == 0:
            raise ArgumentError(f"scope {scope} is empty, goes back, or leaves out positions")
    elif not isinstance(scope, Steps | Span) and not is_word(scope, _NAMES):
        raise ArgumentError(
            f"scope is {quote(scope)}; it must be one of {', '.join(map(repr, _NAMES))}, Steps(...), Span(...) or "
            "range(...)"
        )


def is_inside(scope: Scope, where: Where) -> Tensor:
    """(F, Q) bool: which tokens of a pass an edit acts on."""
    if isinstance(scope, Span):
        return where.is_inside(scope)
    if isinstance(scope, Steps):
        inside = where.steps >= scope.first
        return inside if scope.last is None else inside & (where.steps <= scope.last)
    if isinstance(scope, range):
        return (where.positions >= scope.start) & (where.positions < scope.stop)
    if scope == "prompt":
        return where.positions < where.start
    if scope == "response":
        return where.steps >= 0
    return where.positions >= where.start if scope == "text" else torch.ones_like(where.positions, dtype=torch.bool)


def name_scope(scope: Scope) -> Hashable:
    """What the self-check sees of a scope: for all spans it takes the same tokens."""
    return Span if isinstance(scope, Span) else scope


def prepare_changes(changes: Sequence[Change], scope: Scope) -> Prepared:
    """Changes that act within a scope, with what of the prompt it names."""
    spans = [scope] if isinstance(scope, Span) else []
    return Prepared(changes, spans=spans, reach=scope.stop if isinstance(scope, range) else 0)


def read_strength(strength: Any) -> Strength:
    """A strength as a float, or as the function that it is. Raises ArgumentError for what is neither, and for NaN."""
    if callable(strength):
        return cast("Strength", strength)
    number = as_real(strength)
    if number is None:
        raise ArgumentError(f"strength is {quote(strength)}; give a finite number, or a function of steps")
    return number


def read_factor(name: str, value: Any) -> float:
    """A number of an edit that has no schedule. Raises ArgumentError by its `name` for anything else."""
    number = as_real(value)
    if number is None:
        raise ArgumentError(f"{name} is {quote(value)}; give a finite number (schedules in steps are for activations)")
    return number


def measure(strength: Strength, where: Where) -> Tensor | float:
    """A number, or (F, Q) of them."""
    if not callable(strength):
        return strength
    found = strength(where.steps)
    if not isinstance(found, Tensor) or found.shape != where.steps.shape:
        raise ArgumentError(
            f"a strength gave {quote(found)} for {tuple(where.steps.shape)} steps; it must give a tensor of that shape"
        )
    return found
