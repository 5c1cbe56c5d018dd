"""Log-weights as programs give them: numbers of any kind, and arrays or tensors with one entry."""

from __future__ import annotations

import math
from typing import Any

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import find_shape, take_only
from feynkac.potentials.rewards.values import Unfit, read_number


def read_nats(what: str, value: Any, *, bools: bool = False) -> float:
    """`value` as a float below infinity; with `bools` True is 1.

    Raises ArgumentError by the name of the call, `what`, for anything else.
    """
    if value.__class__ is float and value < math.inf:
        return value
    try:
        if not bools and isinstance(take_only(value), bool):
            raise Unfit
        number = read_number(value)
    except Unfit:
        advice = "" if bools else "; for a bool use p.condition"
        raise ArgumentError(f"{what}({show(value)}): give a number in nats{advice}") from None
    if not number < math.inf:  # NaN, too
        raise ArgumentError(f"{what}({number}): give a number below infinity; -inf kills the particle")
    return number


def show(value: Any) -> str:
    """`value` as an error shows it: an array or tensor by its shape, anything else as Python writes it, in short."""
    shape = find_shape(value)
    return f"{type(value).__name__} of shape {shape}" if shape else quote(value)
