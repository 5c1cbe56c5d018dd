"""Resampling schemes: each draws parents for a new population, properly weighted.

Every scheme maps absolute log-weights (N,) in nats to `rows` (M,) and new absolute log-weights (M,) with

    E[ sum_k exp(w'_k) 1{rows_k = i} ] = exp(w_i)   for every row i,

so that the log-sum-exp of the log-weights estimates log Z before and after. All return (None, log_weight) where no
row has mass, and raise WeightError for NaN and +inf. `n` is how many rows to return: N unless told otherwise.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW, Rng, Rows
from feynkac.base.errors import ArgumentError
from feynkac.smc import kernels
from feynkac.smc.weights import relative

Floats = NDArray[np.float64]
Draw = tuple[Rows | None, LogW]

NUMPY_UP_TO = 1024
"""Rows up to which numpy is as fast as numba, so that small populations never wait for a compiler."""
PYTHON_UP_TO = 64
"""The same for SSP, which has no numpy form: a plain loop over lists takes about 30 microseconds here."""


def multinomial(log_weight: LogW, rng: Rng, n: int | None = None) -> Draw:
    """Independent parents, in the order drawn: exchangeable. The noisiest scheme, and the one that theory is about.

    Gordon, Salmond, Smith (1993).
    """
    weight, largest = relative(log_weight)
    if largest == -np.inf:
        return None, log_weight
    n = size_of(n, log_weight)
    log_each = largest + math.log(weight.sum() / n)
    return iid_rows(weight, rng.uniform(n)), equal(n, log_each, weight)


def residual(log_weight: LogW, rng: Rng, n: int | None = None) -> Draw:
    """floor(n W_i) children for certain, the rest independently from the remainders.

    Liu, Chen (1998).
    """
    weight, largest = relative(log_weight)
    if largest == -np.inf:
        return None, log_weight
    n, total = size_of(n, log_weight), float(weight.sum())
    expected = weight * (n / total)
    # Just below an integer is rounding: without the nudge N equal weights could all be left to chance.
    whole = np.floor(expected * (1 + 1e-14)).astype(np.int64)
    rows, left = np.repeat(np.arange(len(weight)), whole), n - int(whole.sum())
    if left > 0:
        chance = np.maximum(expected - whole, 0.0)
        rows = np.concatenate([rows, iid_rows(chance, rng.uniform(left))])
    return rows, equal(n, largest + math.log(total / n), weight)


def stratified(log_weight: LogW, rng: Rng, n: int | None = None) -> Draw:
    """One uniform in each of n equal strata of the cumulative weights.

    Kitagawa (1996); consistent for every order of the rows (Gerber, Chopin, Whiteley 2019).
    """
    weight, largest = relative(log_weight)
    if largest == -np.inf:
        return None, log_weight
    n = size_of(n, log_weight)
    log_each = largest + math.log(weight.sum() / n)
    return stratified_rows(weight, n, rng.uniform(n)), equal(n, log_each, weight)


def systematic(log_weight: LogW, rng: Rng, n: int | None = None) -> Draw:
    """One uniform for all strata: each row has the floor or the ceiling of n W_i children.

    Carpenter, Clifford, Fearnhead (1999).
    """
    weight, largest = relative(log_weight)
    if largest == -np.inf:
        return None, log_weight
    n = size_of(n, log_weight)
    log_each = largest + math.log(weight.sum() / n)
    return stratified_rows(weight, n, rng.uniform(1)), equal(n, log_each, weight)


def ssp(log_weight: LogW, rng: Rng, n: int | None = None) -> Draw:
    """Srinivasan sampling process: floor or ceiling of n W_i children, negatively associated, hence consistent.

    Gerber, Chopin, Whiteley (2019).
    """
    weight, largest = relative(log_weight)
    if largest == -np.inf:
        return None, log_weight
    n, size, total = size_of(n, log_weight), len(weight), float(weight.sum())
    uniform, scale = rng.uniform(size), n / total
    if uniform.dtype != object and size <= PYTHON_UP_TO:
        counts = kernels.ssp_counts.py_func(weight.tolist(), scale, n, uniform.tolist(), [0] * size)
    else:
        # Counts take the place of the weights: entry j is written after weight j has been read.
        counts = kernels.ssp_counts(weight, scale, n, uniform, weight.view(np.int64))
    return _rows_of(counts, size, n), equal(n, largest + math.log(total / n), weight)


def killing(log_weight: LogW, rng: Rng) -> Draw:
    """A row survives with probability W_i / max W, and is otherwise replaced by an independent draw.

    Del Moral (2004); moves the fewest rows where weights are nearly equal. Always returns N rows.
    """
    weight, largest = relative(log_weight)
    if largest == -np.inf:
        return None, log_weight
    n = len(weight)
    stays = (rng.uniform(n) < weight).astype(np.bool_)
    log_each, rows = largest + math.log(weight.sum() / n), np.arange(n)
    rows[~stays] = iid_rows(weight, rng.uniform(n)[~stays])
    return rows, equal(n, log_each, weight)


def iid_rows(weight: Floats, uniform: NDArray) -> Rows:
    """(M,) independent rows of the (N,) weights, one for each uniform; rows without weight are never drawn."""
    cumulative = np.cumsum(weight)
    # By the last sum itself, so that the last live row and all dead ones behind it end at exactly 1.
    cumulative /= cumulative[-1]
    if uniform.dtype != object and len(uniform) <= NUMPY_UP_TO:
        return np.searchsorted(cumulative, uniform, side="right")
    return kernels.locate(uniform, cumulative, np.empty(len(uniform), dtype=np.int64))


def stratified_rows(weight: Floats, n: int, uniform: NDArray) -> Rows:
    """(n,) sorted rows of the (N,) weights, by n uniforms (stratified) or a single one (systematic)."""
    size = len(weight)
    if uniform.dtype == object or max(size, n) > NUMPY_UP_TO:
        kernel = kernels.systematic_rows if len(uniform) == 1 else kernels.stratified_rows
        return kernel(weight, n / float(weight.sum()), uniform, np.empty(n, dtype=np.int64))
    cumulative = np.cumsum(weight)
    total = cumulative[-1]
    x = cumulative * (n / total)
    stratum = np.minimum(x.astype(np.int64), n - 1)
    ends = stratum + ((uniform[0] if len(uniform) == 1 else uniform[stratum]) < x - stratum)
    ends[cumulative >= total] = n
    ends[1:] -= ends[:-1].copy()
    return np.repeat(np.arange(size), ends)


def _rows_of(counts: list[int] | NDArray[np.int64], size: int, n: int) -> Rows:
    if size <= NUMPY_UP_TO:
        return np.repeat(np.arange(size), counts)
    return kernels.rows_of(counts, np.empty(n, dtype=np.int64))


def size_of(n: int | None, log_weight: LogW) -> int:
    """How many rows to return."""
    if n is None:
        return len(log_weight)
    if n < 1:
        raise ArgumentError(f"n={n} rows asked of a resampling scheme; ask for at least one")
    return n


def equal(n: int, log_each: float, spent: Floats) -> LogW:
    """(n,) equal log-weights, in the place of the (N,) weights `spent` if they fit: memory is what costs at large N."""
    if n != len(spent):
        return np.full(n, log_each)
    spent.fill(log_each)
    return spent
