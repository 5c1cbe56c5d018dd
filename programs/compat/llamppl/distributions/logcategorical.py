"""A number by its logit."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError
from feynkac.base.numbers import as_whole
from feynkac.programs.compat.llamppl.distributions.distribution import Distribution
from feynkac.programs.compat.llamppl.rows import draw_uniform
from feynkac.programs.compat.llamppl.util import log_softmax


class LogCategorical(Distribution):
    """An integer from 0, with probabilities proportional to exp(logits)."""

    def __init__(self, logits: Any) -> None:
        self.log_probs = log_softmax(logits)
        if self.log_probs.ndim != 1:
            raise ArgumentError(f"logits have the shape {self.log_probs.shape}; give one number for each outcome")

    async def sample(self) -> tuple[Any, float]:
        number = _draw(self.log_probs, draw_uniform())
        return number, float(self.log_probs[number])

    async def log_prob(self, x: Any) -> float:
        number = as_whole(x)
        known = number is not None and 0 <= number < len(self.log_probs)
        return float(self.log_probs[number]) if known else -math.inf

    async def argmax(self, n: int) -> Any:
        return int(np.argsort(-self.log_probs, kind="stable")[n])


def _draw(log_p: NDArray[Any], u: Any) -> int:
    """The number at which the distribution function passes `u`."""
    cdf = np.cumsum(np.exp(log_p, dtype=np.float64))
    last = int(np.flatnonzero(log_p > -np.inf)[-1])
    if isinstance(u, float):
        return min(int(np.searchsorted(cdf / cdf[-1], u, side="right")), last)
    return next(i for i, below in enumerate(itertools.chain(cdf[:last] / cdf[-1], [1.0])) if u < below)
