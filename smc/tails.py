"""How heavy the tail of weights is: whether those that were not drawn could outweigh those that were."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW
from feynkac.smc.weights import normalise

NEGLIGIBLE = 13.8
"""Nats below the largest log-weight, a factor of a million, from which a weight says nothing of the upper tail."""


def estimate_tail(log_weight: LogW) -> float:
    """The tail index k of weights with P(w > x) ~ x^(-1/k): from 0.5 on their variance is infinite, from 1 their mean.

    The larger of two estimates: `fit_pareto`, and Hill's (1975), which also sees through weights that are often equal,
    as rewards of a few values make them. nan where too few weights matter to tell.
    """
    log_weight = log_weight[log_weight > log_weight.max(initial=-np.inf) - NEGLIGIBLE]
    estimates = [fit_pareto(log_weight), hill(log_weight)]
    return max((k for k in estimates if not math.isnan(k)), default=math.nan)


def count_tail(n: int) -> int:
    """How many of `n` weights are the tail (Vehtari et al. 2024, Appendix H)."""
    return min(math.ceil(0.2 * n), math.ceil(3.0 * math.sqrt(n)))


def hill(log_weight: LogW) -> float:
    """Hill's estimate of the tail index: by how many nats the largest log-weights exceed the next one, on average."""
    ordered, m = np.sort(log_weight), count_tail(len(log_weight))
    if m < 4 or m >= len(ordered):
        return math.nan
    return float((ordered[-m:] - ordered[-m - 1]).mean())


def fit_pareto(log_weight: LogW) -> float:
    """k-hat of Pareto-smoothed importance sampling (Vehtari, Simpson, Gelman, Yao, Gabry 2024), as arviz gives it.

    A generalised Pareto law is fitted to the excesses of the largest weights over the next one, by the posterior mean
    of Zhang and Stephens (2009), and its shape drawn towards 0.5 with the weight of ten observations. nan for fewer
    than five.
    """
    ordered, m = np.sort(log_weight), count_tail(len(log_weight))
    if m < 5 or m >= len(ordered):
        return math.nan
    excess = np.exp(ordered[-m:] - ordered[-1]) - math.exp(ordered[-m - 1] - ordered[-1])
    if excess[-1] - excess[0] <= np.finfo(np.float64).tiny or excess[0] <= 0.0:
        return math.nan  # weights that tie have no such law
    return fit_generalised_pareto(excess)


def fit_generalised_pareto(excess: NDArray[np.float64]) -> float:
    """The shape of a generalised Pareto law of (M,) positive numbers in increasing order.

    The law has one free parameter once its likelihood is maximised over the shape; that one has a prior of the size of
    the first quartile, and its posterior is summed on the grid of Zhang and Stephens (2009, Section 4).
    """
    m = len(excess)
    points = 30 + math.isqrt(m)
    rank = np.arange(points) + 0.5
    theta = 1.0 / excess[-1] + (1.0 - np.sqrt(points / rank)) / (3.0 * excess[math.floor(m / 4 + 0.5) - 1])
    shape = np.log1p(-np.outer(theta, excess)).mean(axis=1)
    posterior = normalise(m * (np.log(-theta / shape) - shape - 1.0))
    shape = float(np.log1p(-(posterior @ theta) * excess).mean())
    return (m * shape + 10 * 0.5) / (m + 10)
