"""Distributions of other libraries as they are: torch, frozen ones of scipy.stats, any object with sample and log_prob.

Their random numbers come from a generator keyed by the particle's own uniform. Where a library knows only a global
generator, that one is seeded for the draw and put back afterwards.
"""

from __future__ import annotations

import copy
import inspect
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from feynkac.base.errors import ArgumentError
from feynkac.programs.distributions import Distribution, Interval

_FEW = 10_000
"""Values of a discrete distribution that are looked at one by one."""


def adapted(source: Any) -> Distribution:
    """`source` as a Distribution. Raises ArgumentError for what is none."""
    if isinstance(source, Distribution):
        return source
    if isinstance(source, type):
        raise ArgumentError(f"{source.__name__} is a class; pass a distribution: {source.__name__}(...)")
    if hasattr(source, "rvs") and (hasattr(source, "logpmf") or hasattr(source, "logpdf")):
        return Scipy(source)
    if callable(getattr(source, "sample", None)) and callable(getattr(source, "log_prob", None)):
        return Sampler(source)
    raise ArgumentError(
        f"{source!r} is no distribution; give one of feynkac.programs, of torch.distributions, a frozen one of "
        "scipy.stats, text.next_token(), or an object with sample() and log_prob(value)"
    )


def generator(u: float, number: int = 0) -> np.random.Generator:
    """A generator keyed by a uniform of 53 bits, and a number."""
    return np.random.Generator(np.random.Philox(key=[_bits(u), number]))


class Foreign(Distribution):
    """A distribution whose values may be arrays or tensors, which a program may change: each run has its own."""

    __slots__ = ("source",)

    def settle(self, u: Any, pin: Any, answer: Any) -> tuple[Any, float | None, Any, float]:
        value = self.draw(u) if pin is None else copy.deepcopy(pin.value if pin.after is None else pin.after)
        unchangeable = isinstance(value, int | float | str | bytes | np.generic)
        return value, None, None if unchangeable else copy.deepcopy(value), 0.0

    def follow(self, after: Any, value: Any) -> Any:
        return copy.deepcopy(after)


class Scipy(Foreign):
    """A frozen distribution of scipy.stats."""

    __slots__ = ()

    def __init__(self, source: Any) -> None:
        self.source = source
        name = getattr(getattr(source, "dist", source), "name", type(source).__name__)
        arguments = (*getattr(source, "args", ()), *getattr(source, "kwds", {}).values())
        self.key = (f"scipy.stats.{name}", repr(arguments))

    def draw(self, u: Any) -> Any:
        return self.source.rvs(random_state=generator(u))

    def log_prob(self, value: Any) -> float:
        return _number(self.source, getattr(self.source, "logpmf", None) or self.source.logpdf, value)

    def support(self) -> Interval | range | None:
        try:
            low, high = map(float, self.source.support())
        except (AttributeError, TypeError, ValueError):  # of several dimensions
            return None
        discrete = hasattr(self.source, "logpmf") and high - low < _FEW
        return range(int(low), int(high) + 1) if discrete else Interval(low, high)


class Sampler(Foreign):
    """An object with sample() and log_prob(value), such as those of torch.distributions."""

    __slots__ = ()

    def __init__(self, source: Any) -> None:
        self.source = source
        self.key = (f"{type(source).__module__}.{type(source).__qualname__}",)

    def draw(self, u: Any) -> Any:
        accepted = inspect.signature(self.source.sample).parameters
        for name in ("rng", "generator", "random_state"):
            if name in accepted:
                return self.source.sample(**{name: generator(u)})
        with seeded(_bits(u)):
            return self.source.sample()

    def log_prob(self, value: Any) -> float:
        return _number(self.source, self.source.log_prob, value)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of Python, numpy and (if it is there) torch seeded, and put back afterwards."""
    torch = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    if torch:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        if torch and before[2] is not None:
            torch.set_rng_state(before[2])


def _bits(u: Any) -> int:
    if not isinstance(u, float):
        raise NotImplementedError(
            "random numbers of other libraries cannot be enumerated; use Bernoulli or Categorical of feynkac.programs"
        )
    return int(u * 2**53)


def _number(source: Any, f: Any, value: Any) -> float:
    try:
        return float(f(value))
    except (TypeError, ValueError, RuntimeError) as cause:
        raise ArgumentError(
            f"{source!r} gives no single log-probability to {value!r}: {cause}. A distribution over several values at "
            "once must know them as one event (torch.distributions.Independent)"
        ) from cause
