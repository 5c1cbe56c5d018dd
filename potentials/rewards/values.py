"""What the values mean that a function of samples returns, and which of them are no scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from decimal import Decimal
from numbers import Real
from typing import Any, SupportsFloat, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import PotentialError, quote
from feynkac.base.numbers import take_only
from feynkac.potentials.rewards.calling import Failed

Convert: TypeAlias = Callable[[Any], float]
"""What a returned value means: the score that it stands for. Raises Unfit for what is none."""
Place: TypeAlias = Callable[[int], str]
"""The beginning of an error about the sample with this index."""


class Unfit(Exception):
    """What is wrong with a returned value, and what to return instead."""


def read_number(value: Any) -> float:
    """A score as a float; True counts 1."""
    value = take_only(value)
    if isinstance(value, SupportsFloat) and not isinstance(value, str | bytes):
        try:
            return float(value)
        except (OverflowError, ValueError):
            if isinstance(value, Real | Decimal):
                raise Unfit(f"{describe(value)}; return a number that fits a float") from None
        except (TypeError, RuntimeError):  # as arrays with several entries do
            pass
    raise Unfit(f"{describe(value)}; return a number")


def read_bool(value: Any) -> float:
    """0 for True and -inf for False, in nats."""
    if not isinstance(value := take_only(value), bool):
        raise Unfit(f"{describe(value)}; a constraint returns True or False (for numbers use reward)")
    return 0.0 if value else -np.inf


def read_number_or_bool(value: Any) -> float:
    """A number as it is, a bool as a constraint, in nats."""
    return read_bool(value) if isinstance(take_only(value), bool) else read_number(value)


def convert_one(value: Any, convert: Convert, i: int, place: Place) -> float:
    """The score that `value` stands for; -inf of a call that has failed."""
    if isinstance(value, Failed):
        return -np.inf
    try:
        score = convert(value)
    except Unfit as problem:
        raise PotentialError(f"{place(i)} returned {problem}") from None
    if np.isnan(score) or score == np.inf:
        raise PotentialError(f"{place(i)} returned {score}; return a finite number, or -inf to kill a particle")
    return score


def convert_batch(returned: Any, convert: Convert, n: int, place: Place, whole: str) -> NDArray[np.float64]:
    """(n,) scores that a function returned of n samples at once; `whole` begins an error about all of them."""
    wanted = f"return one number for each sample, of shape ({n},)"
    original = returned
    if hasattr(returned, "detach"):  # a torch tensor, maybe on a device, with a gradient, or in half precision
        returned = returned.detach()
        returned = (returned.double() if returned.is_floating_point() else returned).cpu().numpy()
    try:
        count = len(returned)
    except TypeError:
        raise PotentialError(f"{whole} returned {describe(original)}; {wanted}") from None
    if isinstance(returned, Mapping | Set):  # the order of what is in it is none
        raise PotentialError(f"{whole} returned {describe(original)}; {wanted}, in the order of the samples")
    if isinstance(returned, (str, bytes)) or count != n:
        raise PotentialError(f"{whole} returned {count} values; {wanted}")
    if isinstance(returned, np.ndarray) and returned.shape == (n, 1):  # as models with one output return it
        returned = returned[:, 0]
    if isinstance(returned, np.ndarray) and returned.ndim == 1:  # all at once, unless there is something to refuse
        if convert is read_bool and returned.dtype == np.bool_:
            return np.where(returned, 0.0, -np.inf)
        if returned.dtype.kind in "fiu" and convert is read_number:
            scores = returned.astype(np.float64)
            if not (np.isnan(scores) | (scores == np.inf)).any():
                return scores
    return np.array([convert_one(value, convert, i, place) for i, value in enumerate(returned)], dtype=np.float64)


def describe(value: Any) -> str:
    """A returned value, for an error."""
    if getattr(value, "ndim", 0):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    return "None" if value is None else f"{type(value).__name__} {quote(value)}"[:80]
