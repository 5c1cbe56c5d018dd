"""Distributions: `await dist.sample()` gives a value and its log-probability, `await dist.log_prob(x)` scores one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError
from feynkac.programs import distributions as plain
from feynkac.programs.compat.llamppl.answering import Logits
from feynkac.programs.compat.llamppl.llms import CachedCausalLM, Token, TokenSequence
from feynkac.programs.compat.llamppl.running import draw_uniform, fetch_answer


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


class _Plain(Distribution):
    """A distribution that needs no language model."""

    def __init__(self, law: plain.Distribution) -> None:
        self._law = law

    async def sample(self) -> tuple[Any, float]:
        value = self._law.draw(draw_uniform())
        return value, self._law.log_prob(value)

    async def log_prob(self, x: Any) -> float:
        return self._law.log_prob(x)


class Bernoulli(_Plain):
    """True with probability `p`."""

    def __init__(self, p: float) -> None:
        super().__init__(plain.Bernoulli(p))
        self.p = p

    async def argmax(self, n: int) -> bool:
        return (self.p > 0.5) == (n == 0)


class Geometric(_Plain):
    """How many trials it takes until one succeeds, each with probability `p`: 1, 2, 3, ..."""

    def __init__(self, p: float) -> None:
        super().__init__(plain.Geometric(p))
        self.p = p

    async def argmax(self, n: int) -> int:
        return n + 1


class LogCategorical(Distribution):
    """An integer from 0, with probabilities proportional to exp(logits)."""

    def __init__(self, logits: Any) -> None:
        self.log_probs = log_softmax(logits)

    async def sample(self) -> tuple[Any, float]:
        number = _draw(self.log_probs, draw_uniform())
        return number, float(self.log_probs[number])

    async def log_prob(self, x: Any) -> float:
        return float(self.log_probs[int(x)]) if 0 <= int(x) < len(self.log_probs) else -math.inf

    async def argmax(self, n: int) -> Any:
        return int(np.argsort(-self.log_probs, kind="stable")[n])


class TokenCategorical(LogCategorical):
    """A Token, with probabilities proportional to exp(logits), one for each of `lm.str_vocab`."""

    def __init__(self, lm: CachedCausalLM, logits: Any) -> None:
        super().__init__(logits)
        self.lm = lm
        if len(self.log_probs) != len(lm.str_vocab):
            raise ArgumentError(f"{len(self.log_probs)} logits for a vocabulary of {len(lm.str_vocab)} tokens")

    async def sample(self) -> tuple[Token, float]:
        number, log_p = await super().sample()
        return Token(self.lm, number, self.lm.str_vocab[number]), log_p

    async def argmax(self, n: int) -> tuple[Token, float]:
        number = await super().argmax(n)
        return Token(self.lm, number, self.lm.str_vocab[number]), float(self.log_probs[number])


class Transformer(Distribution):
    """The next token behind a prompt: a text, a TokenSequence or ids."""

    def __init__(self, lm: CachedCausalLM, prompt: str | TokenSequence | Sequence[int], temp: float = 1.0) -> None:
        self.lm = lm
        self.temp = temp
        self.prompt = list(prompt.seq if isinstance(prompt, TokenSequence) else TokenSequence(lm, prompt).seq)

    async def sample(self) -> tuple[Token, float]:
        return await (await self._find_law()).sample()

    async def log_prob(self, x: Any) -> float:
        return await (await self._find_law()).log_prob(x)

    async def _find_law(self) -> TokenCategorical:
        node = self.lm.find_node(self.prompt)
        return TokenCategorical(self.lm, await fetch_answer(Logits(self.lm.histories, node), node) / self.temp)


def _draw(log_p: NDArray[Any], u: Any) -> int:
    """The number at which the distribution function passes `u`."""
    cdf = np.cumsum(np.exp(log_p, dtype=np.float64))
    last = int(np.flatnonzero(log_p > -np.inf)[-1])
    if isinstance(u, float):
        return min(int(np.searchsorted(cdf / cdf[-1], u, side="right")), last)
    return next(i for i, below in enumerate(itertools.chain(cdf[:last] / cdf[-1], [1.0])) if u < below)


def logsumexp(nums: Any) -> Any:
    """log(sum(exp(nums))), in float64 inside."""
    nums = np.asarray(nums, dtype=np.float64)
    top = nums.max()
    return top if top == -np.inf else top + math.log(np.exp(nums - top).sum())


def log_softmax(nums: Any) -> NDArray[Any]:
    """The logarithms of `softmax(nums)`."""
    nums = np.asarray(nums)
    return nums - logsumexp(nums)


def softmax(nums: Any) -> NDArray[Any]:
    """Probabilities proportional to exp(nums)."""
    return np.exp(log_softmax(nums))
