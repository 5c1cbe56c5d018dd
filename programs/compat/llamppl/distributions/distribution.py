"""What a distribution is: `await dist.sample()` gives a value and its log-probability."""

from __future__ import annotations

from typing import Any

from feynkac.programs import distributions as plain
from feynkac.programs.compat.llamppl.rows import draw_uniform


class Distribution:
    """A distribution; those of your own have `async sample` and `async log_prob`, in nats."""

    async def sample(self) -> tuple[Any, float]:
        """A value, and its log-probability."""
        raise NotImplementedError

    async def log_prob(self, x: Any) -> float:
        """The log-probability of `x`, or its log-density."""
        raise NotImplementedError

    async def argmax(self, n: int) -> Any:
        """The value that is number `n` in order of probability, the likeliest being number 0."""
        raise NotImplementedError


class Plain(Distribution):
    """A distribution that needs no language model."""

    def __init__(self, law: plain.Distribution) -> None:
        self._law = law

    async def sample(self) -> tuple[Any, float]:
        value = self._law.draw(draw_uniform())
        return value, self._law.log_prob(value)

    async def log_prob(self, x: Any) -> float:
        return self._law.log_prob(x)
