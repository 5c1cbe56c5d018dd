"""The evidence of a run, and how far it can be trusted."""

from __future__ import annotations

import math

import numpy as np

from feynkac.base.contract import LogW
from feynkac.base.errors import ArgumentError
from feynkac.smc.weights import log_sum_exp


def evidence(log_weight: LogW, islands: int = 1, *, resampled: bool = True) -> tuple[float, float]:
    """log Z and its standard error, both in nats, from one run of `islands` that never met.

    The B islands are the slices of equal size of the (N,) absolute log-weights. Each estimates Z alone, and the error
    of their mean comes from their spread, by the delta method: se(log Z) = sd(Z_b) / (sqrt(B) mean(Z_b)). Where no row
    was ever resampled the particles are independent, and each is an island of its own. The error is nan when it
    cannot be known: a single island that was resampled, a single particle, or extinction.
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
