"""Resampling schemes: each draws parents for a new population, properly weighted.

Every scheme maps absolute log-weights (N,) in nats to `rows` (M,) and new absolute log-weights (M,) with

    E[ sum_k exp(w'_k) 1{rows_k = i} ] = exp(w_i)   for every row i,

so that the log-sum-exp of the log-weights estimates log Z before and after. All return (None, log_weight) where no
row has mass, and raise WeightError for NaN and +inf. `n` is how many rows to return: N unless told otherwise.

The weights that a scheme makes are its own, and at large N memory is what costs: once they are read, their array is
overwritten with the result (`fill_equal`, and the counts of `ssp`). The log-weights of the caller are never written to.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW, Resample, Rng, Rows
from feynkac.base.errors import ArgumentError
from feynkac.smc import kernels
from feynkac.smc.weights import rescale

Floats = NDArray[np.float64]
Draw = tuple[Rows | None, LogW]

NUMPY_UP_TO = 1024
"""Rows up to which numpy is as fast as numba, so that small populations never wait for a compiler."""
PYTHON_UP_TO = 64
"""The same for SSP, which has no numpy form: a plain loop over lists takes about 30 microseconds here."""


class Scheme:
    """A function that satisfies `Resample`, with the expression that made it as its name."""

    def __init__(
        self, name: str, draw: Callable[[LogW, Rng], Draw], at: Callable[[int], Resample] | None = None
    ) -> None:
        """`at`: what stands in its place before each step, where it is not the same before all."""
        self.name = name
        self.__name__ = name
        self._draw, self._at = draw, at

    def __call__(self, log_weight: LogW, rng: Rng, /) -> Draw:
        return self._draw(log_weight, rng)

    def __repr__(self) -> str:
        return self.name

    @property
    def timed(self) -> bool:
        """Whether it is not the same before all steps."""
        return self._at is not None

    def at(self, t: int) -> Resample:
        """What draws before step `t`, when `t` steps have been taken."""
        return self if self._at is None else self._at(t)


def multinomial(log_weight: LogW, rng: Rng, n: int | None = None) -> Draw:
    """Independent parents, in the order drawn: exchangeable. The noisiest scheme, and the one that theory is about.

    Gordon, Salmond, Smith (1993).
    """
    weight, largest = rescale(log_weight)
    if largest == -np.inf:
        return None, log_weight
    n = count_rows(n, log_weight)
    log_each = largest + math.log(weight.sum() / n)
    rows = iid_rows(weight, rng.uniform(n))
    return rows, fill_equal(n, log_each, weight)


def residual(log_weight: LogW, rng: Rng, n: int | None = None) -> Draw:
    """floor(n W_i) children for certain, the rest independently from the remainders.

    Liu, Chen (1998).
    """
    weight, largest = rescale(log_weight)
    if largest == -np.inf:
        return None, log_weight
    n = count_rows(n, log_weight)
    total = float(weight.sum())
    expected = weight * (n / total)
    # Just below an integer is rounding: without the nudge N equal weights could all be left to chance.
    whole = np.floor(expected * (1 + 1e-14)).astype(np.int64)
    rows = np.repeat(np.arange(len(weight)), whole)
    left = n - int(whole.sum())
    if left > 0:
        chance = np.maximum(expected - whole, 0.0)
        rows = np.concatenate([rows, iid_rows(chance, rng.uniform(left))])
    return rows, fill_equal(n, largest + math.log(total / n), weight)


def stratified(log_weight: LogW, rng: Rng, n: int | None = None) -> Draw:
    """One uniform in each of n equal strata of the cumulative weights.

    Kitagawa (1996); consistent for every order of the rows (Gerber, Chopin, Whiteley 2019).
    """
    weight, largest = rescale(log_weight)
    if largest == -np.inf:
        return None, log_weight
    n = count_rows(n, log_weight)
    log_each = largest + math.log(weight.sum() / n)
    rows = stratified_rows(weight, n, rng.uniform(n))
    return rows, fill_equal(n, log_each, weight)


def systematic(log_weight: LogW, rng: Rng, n: int | None = None) -> Draw:
    """One uniform for all strata: each row has the floor or the ceiling of n W_i children.

    Carpenter, Clifford, Fearnhead (1999).
    """
    weight, largest = rescale(log_weight)
    if largest == -np.inf:
        return None, log_weight
    n = count_rows(n, log_weight)
    log_each = largest + math.log(weight.sum() / n)
    rows = stratified_rows(weight, n, rng.uniform(1))
    return rows, fill_equal(n, log_each, weight)


def ssp(log_weight: LogW, rng: Rng, n: int | None = None) -> Draw:
    """Srinivasan sampling process: floor or ceiling of n W_i children, negatively associated, hence consistent.

    Gerber, Chopin, Whiteley (2019).
    """
    weight, largest = rescale(log_weight)
    if largest == -np.inf:
        return None, log_weight
    n, size = count_rows(n, log_weight), len(weight)
    total = float(weight.sum())
    rows = _expand(draw_counts(weight, n, rng.uniform(size)), size, n)
    return rows, fill_equal(n, largest + math.log(total / n), weight)


def draw_counts(weight: Floats, n: int, uniform: NDArray) -> NDArray[np.int64]:
    """(N,) offspring, `n` in all, of rows with `weight` (N,): the floor or the ceiling of what each expects, by SSP.

    `weight` is spent: where it is large, the counts overwrite it.
    """
    scale = n / float(weight.sum())
    if uniform.dtype != object and len(weight) <= PYTHON_UP_TO:
        return np.array(kernels.ssp_counts.py_func(weight.tolist(), scale, n, uniform.tolist(), [0] * len(weight)))
    # In place: the counts overwrite the weights, entry j after weight j has been read.
    return kernels.ssp_counts(weight, scale, n, uniform, weight.view(np.int64))


def killing(log_weight: LogW, rng: Rng) -> Draw:
    """A row survives with probability W_i / max W, and is otherwise replaced by an independent draw.

    Del Moral (2004); moves the fewest rows where weights are nearly equal. Always returns N rows.
    """
    weight, largest = rescale(log_weight)
    if largest == -np.inf:
        return None, log_weight
    n = len(weight)
    stays = (rng.uniform(n) < weight).astype(np.bool_)
    log_each = largest + math.log(weight.sum() / n)
    rows = np.arange(n)
    rows[~stays] = iid_rows(weight, rng.uniform(n)[~stays])
    return rows, fill_equal(n, log_each, weight)


def iid_rows(weight: Floats, uniform: NDArray) -> Rows:
    """(M,) independent rows of the (N,) weights, one for each uniform; rows without weight are never drawn."""
    cumulative = np.cumsum(weight)
    # In place, and by the last sum itself, so that the last live row and all dead ones behind it end at exactly 1.
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
    # The number of points below each cumulative weight; then, in place, the number of points of each row.
    ends = stratum + ((uniform[0] if len(uniform) == 1 else uniform[stratum]) < x - stratum)
    ends[cumulative >= total] = n
    ends[1:] -= ends[:-1].copy()
    return np.repeat(np.arange(size), ends)


def _expand(counts: list[int] | NDArray[np.int64], size: int, n: int) -> Rows:
    if size <= NUMPY_UP_TO:
        return np.repeat(np.arange(size), counts)
    return kernels.rows_of(counts, np.empty(n, dtype=np.int64))


def count_rows(n: int | None, log_weight: LogW) -> int:
    """The number of rows to return."""
    if n is None:
        return len(log_weight)
    if n < 1:
        raise ArgumentError(f"n={n} rows asked of a resampling scheme; ask for at least one")
    return n


def fill_equal(n: int, log_each: float, spent: Floats) -> LogW:
    """(n,) equal log-weights, written over the (N,) weights `spent` if they fit."""
    if n != len(spent):
        return np.full(n, log_each)
    spent.fill(log_each)
    return spent
