"""Distributions of other libraries as they are: torch, frozen ones of scipy.stats, any object with sample and log_prob.

Their random numbers come from a generator keyed by the particle's own uniform. Where a library knows only a global
generator, that one is seeded for the draw and put back afterwards.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from feynkac.base.errors import ArgumentError, quote
from feynkac.programs.distribution import Distribution, Interval
from feynkac.programs.runtime.generators import make_generator, read_bits, seed_generators

_FEW = 10_000
"""Values of a discrete distribution that are looked at one by one."""


@runtime_checkable
class HasMass(Protocol):
    """A frozen discrete distribution, as scipy.stats has them."""

    def rvs(self, *args: Any, **kwargs: Any) -> Any: ...
    def logpmf(self, value: Any, /) -> Any: ...


@runtime_checkable
class HasDensity(Protocol):
    """A frozen continuous distribution, as scipy.stats has them."""

    def rvs(self, *args: Any, **kwargs: Any) -> Any: ...
    def logpdf(self, value: Any, /) -> Any: ...


@runtime_checkable
class Sampleable(Protocol):
    """A distribution of any other library, such as torch.distributions."""

    def sample(self, *args: Any, **kwargs: Any) -> Any: ...
    def log_prob(self, value: Any, /) -> Any: ...


def adapt(source: Any) -> Distribution:
    """`source` as a Distribution. Raises ArgumentError for what is none."""
    if isinstance(source, Distribution):
        return source
    if isinstance(source, type):
        raise ArgumentError(f"{source.__name__} is a class; pass a distribution: {source.__name__}(...)")
    if isinstance(source, HasMass | HasDensity):
        return Scipy(source)
    if isinstance(source, Sampleable):
        return Sampler(source)
    raise ArgumentError(
        f"{quote(source)} is no distribution; give one of feynkac.programs, of torch.distributions, a frozen one of "
        "scipy.stats, text.next_token(), or an object with sample() and log_prob(value)"
    )


class Foreign(Distribution[Any]):
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
    source: HasMass | HasDensity

    def __init__(self, source: HasMass | HasDensity) -> None:
        self.source = source
        name = getattr(getattr(source, "dist", source), "name", type(source).__name__)
        arguments = (*getattr(source, "args", ()), *getattr(source, "kwds", {}).values())
        self.key = (f"scipy.stats.{name}", repr(arguments))

    def draw(self, u: Any) -> Any:
        return self.source.rvs(random_state=make_generator(u))

    def log_prob(self, value: Any) -> float:
        score = self.source.logpmf if isinstance(self.source, HasMass) else self.source.logpdf
        return _read_log_prob(self.source, score, value)

    def support(self) -> Interval | range | None:
        try:
            low, high = map(float, self.source.support())  # pyright: ignore[reportAttributeAccessIssue]
        except (AttributeError, TypeError, ValueError):  # of several dimensions
            return None
        discrete = isinstance(self.source, HasMass) and high - low < _FEW
        return range(int(low), int(high) + 1) if discrete else Interval(low, high)


class Sampler(Foreign):
    """An object with sample() and log_prob(value), such as those of torch.distributions."""

    __slots__ = ()
    source: Sampleable

    def __init__(self, source: Sampleable) -> None:
        self.source = source
        self.key = (f"{type(source).__module__}.{type(source).__qualname__}",)

    def draw(self, u: Any) -> Any:
        accepted = inspect.signature(self.source.sample).parameters
        for name in ("rng", "generator", "random_state"):
            if name in accepted:
                return self.source.sample(**{name: make_generator(u)})
        with seed_generators(read_bits(u)):
            return self.source.sample()

    def log_prob(self, value: Any) -> float:
        return _read_log_prob(self.source, self.source.log_prob, value)


def _read_log_prob(source: Any, score: Callable[[Any], Any], value: Any) -> float:
    try:
        return float(score(value))
    except (TypeError, ValueError, RuntimeError) as cause:
        raise ArgumentError(
            f"{quote(source)} gives no single log-probability to {quote(value)}: {cause}. A distribution over several "
            "values at once must know them as one event (torch.distributions.Independent)"
        ) from cause
