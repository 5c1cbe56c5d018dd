"""The evidence of a run, its error, and an interval that can be believed."""

from __future__ import annotations

import math

import numpy as np

from feynkac.base.contract import LogW
from feynkac.base.errors import ArgumentError
from feynkac.smc.student import student_quantile
from feynkac.smc.weights import log_sum_exp

PARTS = 8
"""Parts into which particles that never met are divided for an interval: enough for a narrow t, and few enough that
each holds several particles."""
MODERATE = 1.0
"""Nats by which the parts of a run may be foreseen to spread for Student's t to be trusted."""
WIDE = 2.0
"""Nats of spread that were seen, beyond which no t is trusted."""


def evidence(log_weight: LogW, islands: int = 1, *, resampled: bool = True) -> tuple[float, float]:
    """log Z and its standard error, both in nats, from one run of `islands` that never met.

    The B islands are the slices of equal size of the (N,) absolute log-weights. Each estimates Z alone, and the error
    of their mean comes from their spread, by the delta method: se(log Z) = sd(Z_b) / (sqrt(B) mean(Z_b)). Where no row
    was ever resampled the particles are independent, and each is an island of its own. It can never exceed 1, however
    wrong the estimate is: `find_interval` is what to believe. The error is nan when it cannot be known: a single island
    that was resampled, a single particle, or extinction.
    """
    n = len(log_weight)
    islands = islands if resampled else n
    if islands < 1 or n % islands:
        raise ArgumentError(f"{islands} islands of {n} particles; give a number that divides the particles")
    log_z = log_sum_exp(log_weight)
    if islands == 1 or log_z == -math.inf:
        return log_z, math.nan
    share = np.exp(log_weight - log_z).reshape(islands, -1).sum(axis=1)  # Z_b / (B mean(Z_b))
    return log_z, math.sqrt(islands * share.var(ddof=1))


def split_evidence(log_weight: LogW, islands: int = 1, *, resampled: bool = True) -> LogW:
    """(B,) log Z as each independent part of a run estimates it alone.

    The parts are the islands, or, where no row was ever resampled, up to `PARTS` slices of the particles, nearly equal.
    A run that would have resampled, had its weights been worse, has such parts only because they were good: they vary
    slightly less than all runs do.
    """
    if resampled:
        parts = np.split(log_weight, islands)
    else:
        parts = np.array_split(log_weight, min(PARTS, max(1, len(log_weight) // 2)))
    n = len(log_weight)
    return np.array([log_sum_exp(part) + math.log(n / len(part)) for part in parts])


def bound_evidence(log_z: float, confidence: float) -> float:
    """What log Z is at least, with probability `confidence`, in nats: log Z_hat - log(1 / delta).

    It needs nothing but E[Z_hat] = Z, by which P(Z_hat >= Z / delta) <= delta (Markov's inequality).
    """
    return log_z + math.log1p(-confidence)


def find_interval(log_z: float, log_parts: LogW, spread: float, confidence: float) -> tuple[float, float]:
    """Low and high end of a confidence interval of log Z in nats, from (B,) independent estimates and their mean.

    `spread` is the standard deviation of one of them on the log scale, as foreseen from inside of the runs; s is the
    larger of it and the one seen. Where both are moderate, log Z_b is close to a normal of variance s^2 and mean
    log Z - s^2 / 2 (Bérard, Del Moral, Doucet 2014), so that log Z is m + s^2 / 2, estimated with variance
    s^2 / B + s^4 / (2 (B - 1)) (Cox's method; Zhou and Gao 1997), here with the quantile of Student's t for B - 1
    degrees of freedom. Everywhere else (one part, a part that died, a wide or unknown spread) the low end is
    `bound_evidence` and the high end is open.
    """
    n = len(log_parts)
    if n > 1 and np.isfinite(log_parts).all() and spread <= MODERATE:
        # A few parts often agree by chance: what was foreseen then says more than what was seen.
        s = max(float(log_parts.std(ddof=1)), spread)
        if s <= WIDE:
            centre = float(log_parts.mean()) + s * s / 2.0
            quantile = student_quantile((1.0 + confidence) / 2.0, n - 1)
            half = quantile * math.sqrt(s**2 / n + s**4 / (2.0 * (n - 1)))
            return min(log_z, centre - half), max(log_z, centre + half)
    return bound_evidence(log_z, confidence), math.inf
