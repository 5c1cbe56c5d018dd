"""Distributions that a program can sample from, observe, and propose from.

Each turns one uniform of the particle's keyed stream into a value (inversion), so that a result does not depend on the
batch, and runs over finite distributions can be enumerated by `feynkac.smc.testing`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from statistics import NormalDist
from typing import Any

import numpy as np

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import as_real, take_only
from feynkac.programs.distribution import Distribution, Interval
from feynkac.programs.numbers import show

_STANDARD = NormalDist()
_HALF_STEP = 2.0**-54
_HALF_LOG_2_PI = 0.5 * math.log(2.0 * math.pi)


class Bernoulli(Distribution[bool]):
    """True with probability `p`, else False."""

    __slots__ = ("p",)

    def __init__(self, p: float) -> None:
        p = _read_number("Bernoulli", p)
        if not 0.0 <= p <= 1.0:
            raise ArgumentError(f"Bernoulli({p}): a probability lies between 0 and 1")
        self.p = p
        self.key = ("Bernoulli", p)

    def draw(self, u: Any) -> bool:
        return bool(u < self.p)

    def log_prob(self, value: bool) -> float:
        if not any(_equals(value, each) for each in (True, False)):
            return -math.inf
        return _log(self.p) if value else _log_rest(self.p)

    def support(self) -> list[bool]:
        return [value for value, p in ((True, self.p), (False, 1.0 - self.p)) if p > 0.0]


class Categorical(Distribution[Any]):
    """One of finitely many values.

    `Categorical([0.2, 0.8])` gives 0 or 1, `Categorical({"yes": 3, "no": 1})` gives "yes" or "no". Probabilities need
    not sum to 1. With `logits` they are given as logarithms, up to a constant.
    """

    __slots__ = ("_cache", "_log", "_values", "_weights")

    def __init__(
        self,
        probabilities: Mapping[Any, float] | Sequence[float] | np.ndarray | None = None,
        *,
        logits: Mapping[Any, float] | Sequence[float] | np.ndarray | None = None,
    ) -> None:
        given = logits if probabilities is None else probabilities
        if given is None or (probabilities is not None and logits is not None):
            raise ArgumentError("Categorical takes either probabilities or logits=")
        self._log = probabilities is None
        if isinstance(given, Mapping):
            self._values = tuple(given)
            self._weights = tuple(given.values())
        else:
            self._values = None
            self._weights = _list_weights(given)
        self._cache: tuple[Sequence[float], Sequence[float]] | None = None
        self.key = ("Categorical", self._values, self._weights, self._log)

    def draw(self, u: Any) -> Any:
        _, cdf = self._find_masses()
        if isinstance(u, float) and len(cdf) > 32:
            index = int(np.searchsorted(np.asarray(cdf), u, side="right"))
        else:
            index = next(i for i, below in enumerate(cdf) if u < below)
        return index if self._values is None else self._values[index]

    def log_prob(self, value: Any) -> float:
        p, _ = self._find_masses()
        if self._values is not None:
            index = next((i for i, each in enumerate(self._values) if _equals(each, value)), -1)
        else:
            number = take_only(value)  # as torch and numpy draw them
            index = int(number) if isinstance(number, int | float) and number % 1 == 0 else -1
        return _log(p[index]) if 0 <= index < len(p) else -math.inf

    def support(self) -> list[Any]:
        positive = [i for i, p in enumerate(self._find_masses()[0]) if p > 0.0]
        return positive if self._values is None else [self._values[i] for i in positive]

    def _find_masses(self) -> tuple[Sequence[float], Sequence[float]]:
        """The probabilities, checked and normalised on first use, and their cumulated sums."""
        if self._cache is None:
            weights = [_read_number("Categorical", w) for w in self._weights]
            if self._log:
                top = max(weights, default=-math.inf)
                weights = [math.exp(w - top) if w > -math.inf else 0.0 for w in weights] if top < math.inf else [top]
            total = math.fsum(weights)
            if not all(w >= 0.0 for w in weights) or not 0.0 < total < math.inf:
                raise ArgumentError(f"{quote(self)}: probabilities are not negative, and some is positive")
            p = [w / total for w in weights]
            cdf = list(itertools.accumulate(p))
            last = max(i for i, mass in enumerate(p) if mass > 0.0)
            cdf[last:] = [1.0] * (len(p) - last)  # so that rounding leaves no uniform past the end
            self._cache = p, cdf
        return self._cache


class Geometric(Distribution[int]):
    """How many trials it takes until one succeeds, each with probability `p`: 1, 2, 3, ..."""

    __slots__ = ("p",)

    def __init__(self, p: float) -> None:
        p = _read_number("Geometric", p)
        if not 0.0 < p <= 1.0:
            raise ArgumentError(f"Geometric({p}): the probability of success is positive and at most 1")
        self.p = p
        self.key = ("Geometric", p)

    def draw(self, u: Any) -> int:
        if isinstance(u, float):
            return 1 if self.p == 1.0 else 1 + int(math.log1p(-u) / math.log1p(-self.p))
        return next(k for k in itertools.count(1) if u < 1.0 - (1.0 - self.p) ** k)

    def log_prob(self, value: int) -> float:
        if (as_real(value) or 0.5) % 1.0 or value < 1:
            return -math.inf
        return _log(self.p) + (int(value) - 1) * _log_rest(self.p) if value > 1 else _log(self.p)

    def support(self) -> Interval | list[int]:
        return Interval(1, math.inf) if self.p < 1.0 else [1]


class Uniform(Distribution[float]):
    """A number from `low` to `high`, all alike."""

    __slots__ = ("high", "low")

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        low, high = _read_number("Uniform", low), _read_number("Uniform", high)
        if not -math.inf < low < high < math.inf or high - low == math.inf:
            raise ArgumentError(
                f"Uniform({low}, {high}): give two finite numbers, the lower one first, whose difference is finite"
            )
        self.low = low
        self.high = high
        self.key = ("Uniform", low, high)

    def draw(self, u: Any) -> float:
        return self.low + (self.high - self.low) * u

    def log_prob(self, value: float) -> float:
        number = _read_number("Uniform", value)
        return -math.log(self.high - self.low) if self.low <= number <= self.high else -math.inf

    def support(self) -> Interval:
        return Interval(self.low, self.high)


class Normal(Distribution[float]):
    """The normal distribution with `mean` and standard deviation `sd`."""

    __slots__ = ("mean", "sd")

    def __init__(self, mean: float = 0.0, sd: float = 1.0) -> None:
        mean, sd = _read_number("Normal", mean), _read_number("Normal", sd)
        if not (0.0 < sd < math.inf and -math.inf < mean < math.inf):
            raise ArgumentError(f"Normal({mean}, {sd}): mean and standard deviation are finite, the latter positive")
        self.mean = mean
        self.sd = sd
        self.key = ("Normal", mean, sd)

    def draw(self, u: Any) -> float:
        return self.mean + self.sd * _STANDARD.inv_cdf(u + _HALF_STEP if u < 0.5 else u)

    def log_prob(self, value: float) -> float:
        z = (_read_number("Normal", value) - self.mean) / self.sd
        return -0.5 * z * z - math.log(self.sd) - _HALF_LOG_2_PI

    def support(self) -> Interval:
        return Interval(-math.inf, math.inf)


def _read_number(name: str, value: Any) -> float:
    """A parameter, or a value, as a float. Raises ArgumentError by the `name` of the distribution."""
    number = take_only(value)
    if isinstance(number, Real):
        try:
            return float(number)
        except OverflowError:
            pass
    raise ArgumentError(f"{name}: {show(value)} is no number that a float can hold")


def _list_weights(given: Any) -> tuple[Any, ...]:
    listed = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(listed, str | bytes) or not isinstance(listed, Iterable):
        raise ArgumentError(
            f"Categorical({show(given)}): give a list of probabilities, or a dict of values with theirs"
        )
    return tuple(listed)


def _equals(value: Any, other: Any) -> bool:
    """Whether two values are equal; those that cannot be compared, such as arrays, are not."""
    try:
        return value is other or bool(value == other)
    except Exception:
        return False


def _log_rest(p: float) -> float:
    """log(1 - p), exact for small p."""
    return math.log1p(-p) if p < 1.0 else -math.inf


def _log(p: float) -> float:
    return math.log(p) if p > 0.0 else -math.inf
