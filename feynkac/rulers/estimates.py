"""Weighted draws, and what they say of the law that they are of: each estimate with its error.

All errors are those of the delta method: a function of several means moves, to first order, with the sum of what each
independent part of the sample adds to it (its influence), whose spread over the parts is seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import as_real, hold_the_same
from feynkac.smc.student import student_quantile
from feynkac.smc.weights import effective_sample_size, log_sum_exp, normalise

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number that was estimated from independent parts."""

    value: float
    se: float
    """Its standard error; nan where nothing tells."""
    parts: int
    """The independent parts whose spread the error is."""

    def __eq__(self, other: object) -> bool:
        return hold_the_same(self, other)

    def __hash__(self) -> int:
        return hash((self.value, self.se, self.parts))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Between these two it is with probability `confidence`, by Student's t for the parts. Raises ArgumentError."""
        share = as_real(confidence)
        if share is None or not 0.0 < share < 1.0:
            raise ArgumentError(f"confidence is {quote(confidence)}; it must be between 0 and 1, such as 0.95")
        if self.se == 0.0:
            return self.value, self.value
        if self.parts < 2 or not math.isfinite(self.se):
            return -math.inf, math.inf
        wide = self.se * student_quantile(0.5 + share / 2.0, self.parts - 1)
        return self.value - wide, self.value + wide


@dataclass(frozen=True)
class Sample:
    """N draws with weights. Those without are left out, but the parts that they were of count."""

    log_weight: LogW
    """(N,) nats; what they add up to does not matter."""
    part: NDArray[np.int64]
    """(N,) the independent part that each belongs to, from 0 on: a particle of its own, or an island."""
    parts: int
    """How many parts were drawn, those that have died among them."""

    @cached_property
    def weights(self) -> Floats:
        """(N,) they sum to 1."""
        return normalise(self.log_weight)

    @property
    def ess(self) -> float:
        """The effective sample size, in draws."""
        return effective_sample_size(self.log_weight)

    def estimate(self, value: float, influence: Floats) -> Estimate:
        """`value`, which each row moves by its `influence` (N,), weights included."""
        n = self.parts
        moved = n * np.bincount(self.part, influence, minlength=n)
        return Estimate(value, float(moved.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan, n)

    def find_mean(self, values: Floats) -> Estimate:
        """The mean of (N,) `values` under the law."""
        return self.find_ratio(values, np.ones(len(values)))

    def find_ratio(self, top: Floats, bottom: Floats) -> Estimate:
        """The mean of `top` (N,) over the mean of `bottom`."""
        below = float(self.weights @ bottom)
        value = float(self.weights @ top) / below
        return self.estimate(value, self.weights * (top - value * bottom) / below)

    def find_divergence(self, log_ratio: Floats, log_z: float | None) -> Estimate:
        """KL(q || p) = E_q[log(q / p)] in nats, from (N,) log-ratios; inf where one of them is.

        `log_z`: None where the ratios are those of q; else the log of the total weight of the draws, by whose unbiased
        estimate Z the ratios are too large, as q Z / p. Its error counts, and that it moves with the weights.
        """
        if np.isposinf(log_ratio).any():
            return Estimate(math.inf, math.nan, self.parts)
        mean = float(self.weights @ log_ratio)
        moves = 0.0 if log_z is None else 1.0
        return self.estimate(mean - (log_z or 0.0), self.weights * (log_ratio - mean - moves))

    def tilt(self, log_factor: Floats) -> Sample:
        """The same draws, weighted for the law that is exp(`log_factor`) (N,) times this one."""
        return Sample(self.log_weight + log_factor, self.part, self.parts)

    def find_log_mean_exp(self, log_factor: Floats) -> Estimate:
        """The log of the mean of exp(`log_factor`) (N,), in nats."""
        tilted = self.tilt(log_factor)
        value = log_sum_exp(tilted.log_weight) - log_sum_exp(self.log_weight)
        return self.estimate(value, tilted.weights - self.weights)
