"""Numbers as arguments: those of Python and of numpy alike, and nothing that only looks like one."""

from __future__ import annotations

import math
import operator
from dataclasses import fields
from numbers import Real
from typing import Any

import numpy as np

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list

MOST = 1_000_000
"""Steps of a run, sweeps, and places of a canvas: more are a mistake."""
MOST_PARTICLES = 10_000_000
"""Rows of a population: no memory holds more of what a model keeps for each."""


def as_whole(value: Any) -> int | None:
    """`value` as an int; None for what is no whole number, such as True, 1.0 and "1"."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except Exception:  # of a tensor of torch's device "meta", say, a NotImplementedError
        return None


def as_bool(value: Any) -> bool | None:
    """`value` as a bool, also from numpy, and from an array or tensor with one entry; None for what is none."""
    if isinstance(value, bool):
        return value
    value = take_only(value)
    return value if isinstance(value, bool) else None


def as_real(value: Any) -> float | None:
    """`value` as a finite float, also from an array or tensor with one entry; None for True, "1" and what is none."""
    number = to_float(take_only(value))
    return number if math.isfinite(number) else None


def take_only(value: Any) -> Any:
    """The Python number in a numpy number, and in an array or tensor with one entry; else `value` as it is.

    An entry that is masked is none: what is missing must not count as the number that happens to lie below the mask.
    """
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        return value
    single = hasattr(value, "item") and isinstance(getattr(value, "shape", None), tuple) and math.prod(value.shape) == 1
    try:
        return value.item() if single else value
    except Exception:  # a tensor without numbers, or of an object that raises
        return value


def hold_the_same(one: Any, other: Any) -> bool:
    """Whether two dataclasses of one class have equal fields, nan being as good as nan (in Python 3.13 it is not)."""
    if type(one) is not type(other):
        return False
    pairs = [(getattr(one, each.name), getattr(other, each.name)) for each in fields(one)]
    return all(a == b or (a != a and b != b) for a, b in pairs)


def find_shape(value: Any) -> tuple[int, ...]:
    """The shape of an array or tensor; () of anything else."""
    shape = getattr(value, "shape", ())
    return tuple(shape) if isinstance(shape, tuple) else ()


def to_float(value: Any) -> float:
    """A number as a float, infinite where it is too large for one; nan for what is no number."""
    if not isinstance(value, Real) or isinstance(value, bool | np.bool_):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]
    except Exception:
        return math.nan


def read_whole(name: str, value: Any, low: int, advice: str = "") -> int:
    """`value` as an int of at least `low`. Raises ArgumentError by the `name` of the argument."""
    number = as_whole(value)
    if number is None or number < low:
        raise ArgumentError(f"{name} is {quote(value)}; it must be an integer of at least {low}{advice}")
    return number


def read_count(name: str, value: Any, advice: str = "", low: int = 1) -> int:
    """`value` as a number of steps or places, which is not too many. Raises ArgumentError by the `name` of it."""
    return _hold_below(MOST, name, read_whole(name, value, low, advice), advice)


def read_particles(name: str, value: Any, low: int = 1, advice: str = "") -> int:
    """`value` as a number of particles or draws, not too many. Raises ArgumentError by the `name` of the argument."""
    return _hold_below(MOST_PARTICLES, name, read_whole(name, value, low, advice), advice)


def _hold_below(most: int, name: str, number: int, advice: str) -> int:
    if number > most:
        raise ArgumentError(f"{name} is {quote(number)}; it must be at most {most:,}{advice}")
    return number


def read_positive(name: str, value: Any, advice: str = "") -> float:
    """`value` as a finite float above 0. Raises ArgumentError by the `name` of the argument."""
    number = as_real(value)
    if number is None or number <= 0.0:
        raise ArgumentError(f"{name} is {quote(value)}; it must be a number above 0{advice}")
    return number


def read_finite(name: str, value: Any, advice: str = "") -> float:
    """`value` as a finite float. Raises ArgumentError by the `name` of the argument."""
    number = as_real(value)
    if number is None:
        raise ArgumentError(f"{name} is {quote(value)}; it must be a finite number{advice}")
    return number


def read_limit(name: str, value: Any, advice: str = "") -> float:
    """`value` as a float of at least 0, which may be infinite. Raises ArgumentError by the `name` of the argument."""
    number = to_float(take_only(value))
    if not number >= 0.0:
        raise ArgumentError(f"{name} is {quote(value)}; it must be a number of at least 0, or infinity{advice}")
    return number


def read_share(name: str, value: Any, advice: str = "") -> float:
    """`value` as a float from 0 to 1. Raises ArgumentError by the `name` of the argument."""
    number = as_real(value)
    if number is None or not 0.0 <= number <= 1.0:
        raise ArgumentError(f"{name} is {quote(value)}; it must be a number from 0 to 1{advice}")
    return number


def read_real(name: str, value: Any, low: float, advice: str = "") -> float:
    """`value` as a finite float of at least `low`. Raises ArgumentError by the `name` of the argument."""
    number = to_float(value)
    if not (math.isfinite(number) and number >= low):
        raise ArgumentError(f"{name} is {quote(value)}; it must be a number of at least {low:g}{advice}")
    return number


def read_flag(name: str, value: Any) -> bool:
    """True or False. Raises ArgumentError by the `name` of the argument for what is neither."""
    flag = as_bool(value)
    if flag is None:
        raise ArgumentError(f"{name} is {quote(value)}; give True or False")
    return flag


def read_seed(name: str, value: Any) -> int | None:
    """A seed, an int from 0; None draws one. Raises ArgumentError by the `name` of the argument."""
    return None if value is None else read_whole(name, value, 0, ", or None, which draws one")


def read_seconds(name: str, value: Any) -> float | None:
    """`value` as a limit of time in seconds; None is none. Raises ArgumentError by the `name` of the argument."""
    if value is None:
        return None
    if not read_real(name, value, 0.0, " seconds, or None for no limit"):
        raise ArgumentError(f"{name} is 0; give seconds, or None for no limit")
    return float(value)


def read_steps(name: str, value: Any) -> range | tuple[int, ...]:
    """Numbers of steps from 1 on, a range as it is. Raises ArgumentError by the `name` of the argument."""
    steps = [as_whole(each) for each in as_list(value) or ()]
    if not steps or not all(each is not None and each >= 1 for each in steps):
        raise ArgumentError(f"{name} is {quote(value)}; give numbers of steps, from 1 on, such as range(20, 81, 20)")
    return value if isinstance(value, range) else tuple(sorted({each for each in steps if each is not None}))
