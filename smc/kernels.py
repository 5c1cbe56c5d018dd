"""Sequential and large-N resampling kernels: pure functions of weights and uniforms.

Shapes: `weight` (N,) float64, any non-negative multiple of the weights, at least one of them positive; `n` rows are
asked for; `uniform` float64 in [0, 1). Uniforms are only compared with numbers, so that the undecorated functions run
on symbolic ones too (`smc.testing`), as they do for arrays of objects. No kernel draws random numbers: numba has a
generator of its own, which no seed of ours would reach. `fastmath` stays off: it breaks -inf, and the order of sums.

Sums go over a number of blocks that depends on N alone, so results do not depend on the number of threads. Results go
into arrays of the caller's: numpy backs large ones with huge pages, numba does not, and at 10^6 rows the page faults
would cost twice the work itself.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
from numba import njit, prange
from numba.extending import register_jitable
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PARALLEL_FROM = 100_000
"""Rows from which threads pay for their start, and for the longer compilation."""


def blocks_for(size: int) -> int:
    """How many blocks N rows are cut into: one as long as a plain scan is fast, then a fixed number."""
    return 1 if size < 8192 else 64


class Kernel:
    """One Python function compiled on first use: for one thread, and apart from that for many."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.py_func = function
        self.serial = njit(cache=True, error_model="numpy")(function)
        # A name of its own: the cache on disk tells functions apart by name, not by how they were compiled.
        twin = FunctionType(function.__code__, function.__globals__, function.__name__ + "_parallel")
        twin.__qualname__, twin.__module__ = function.__qualname__ + "_parallel", function.__module__
        self.parallel = njit(cache=True, error_model="numpy", parallel=True)(twin)

    def __call__(self, *args: Any) -> Any:
        if any(isinstance(arg, np.ndarray) and arg.dtype == object for arg in args):
            return self.py_func(*args)
        return (self.serial if len(args[0]) < PARALLEL_FROM else self.parallel)(*args)


@register_jitable
def _end(cumulative: float, total: float, n: int, uniform: Any) -> int:
    """How many of n stratified points lie below a cumulative weight; one uniform for all makes them systematic."""
    if cumulative >= total:
        return n  # forced, also for all dead rows after the last live one: no point is ever lost to rounding
    x = cumulative * (n / total)
    stratum = min(int(x), n - 1)
    return stratum + (uniform[stratum if len(uniform) > 1 else 0] < x - stratum)


@Kernel
def stratified_rows(weight: Floats, n: int, uniform: Any, blocks: int, rows: Ints) -> Ints:
    """Fill `rows` (n,) with sorted parents by stratified resampling; with a single uniform, by systematic resampling.

    Kitagawa (1996); Carpenter, Clifford, Fearnhead (1999). Search-free: a point is above or
    below a cumulative weight by one comparison, in the stratum where that weight falls.
    """
    size = len(weight)
    start = np.zeros(blocks + 1)
    for b in prange(blocks):
        s = 0.0
        for i in range(b * size // blocks, (b + 1) * size // blocks):
            s += weight[i]
        start[b + 1] = s
    for b in range(blocks):
        start[b + 1] += start[b]
    total = start[blocks]
    for b in prange(blocks):
        first = 0 if b == 0 else _end(start[b], total, n, uniform)
        stop = _end(start[b + 1], total, n, uniform)
        rows[first:stop] = 0
        k, s = first, 0.0
        for i in range(b * size // blocks, (b + 1) * size // blocks):
            if k == stop:
                break
            # A row without offspring is overwritten by the next; running maxima then fill the longer families.
            # So nothing depends on the unpredictable number of children, and no branch is mispredicted.
            rows[k] = i
            s += weight[i]
            k = _end(start[b] + s, total, n, uniform)
        for k in range(first + 1, stop):
            rows[k] = max(rows[k], rows[k - 1])
    return rows


@register_jitable
def _pair(x: float, y: float, uniform: Any) -> tuple[bool, float, int]:
    """One step of SSP on the fractions x, y of rows i, j: whether i stays open, the open fraction, ones given out."""
    s = x + y
    if s < 1.0:
        # Both zero: pass to j, so that a dead row in front is never the open one while live rows follow.
        return uniform < (x / s if s > 0.0 else 0.0), s, 0
    return uniform >= (1.0 - y) / (2.0 - s), s - 1.0, 1


@Kernel
def ssp_counts(weight: Any, total: float, n: int, uniform: Any, blocks: int, counts: Any) -> Any:
    """Fill `counts` (N,) with offspring by the Srinivasan sampling process: each is the floor or the ceiling of n W_i.

    Gerber, Chopin, Whiteley (2019). Each block is a process of its own, whose last open row then meets
    those of the other blocks: another order of the same pairings, which keeps negative association
    (Brändén, Jonasson 2012, for any tournament). Row j decides with its own uniform; that of row 0 is unused.
    """
    size, scale = len(weight), n / total
    open_row, fraction = np.empty(blocks, dtype=np.int64), np.empty(blocks)
    placed = np.zeros(blocks, dtype=np.int64)
    for b in prange(blocks):
        i, x, given = b * size // blocks, 0.0, 0
        for j in range(b * size // blocks, (b + 1) * size // blocks):
            expected = weight[j] * scale
            whole = int(expected)
            counts[j] = whole
            if j == i:
                x, given = expected - whole, whole
                continue
            stays, x, one = _pair(x, expected - whole, uniform[j])
            closed = j if stays else i
            counts[closed] += one
            given += whole + one
            i = i if stays else j
        open_row[b], fraction[b], placed[b] = i, x, given
    i, x, given = open_row[0], fraction[0], placed.sum()
    for b in range(1, blocks):
        j = open_row[b]
        stays, x, one = _pair(x, fraction[b], uniform[b * size // blocks])
        counts[j if stays else i] += one
        given += one
        i = i if stays else j
    counts[i] += n - given  # what is open at the end is 0 or 1 up to rounding: the total decides which
    return counts


@Kernel
def rows_of(counts: Ints, blocks: int, rows: Ints) -> Ints:
    """Fill `rows` (n,) with sorted parents that have the given offspring `counts` (N,), which sum to n."""
    size = len(counts)
    start = np.zeros(blocks + 1, dtype=np.int64)
    for b in prange(blocks):
        s = 0
        for i in range(b * size // blocks, (b + 1) * size // blocks):
            s += counts[i]
        start[b + 1] = s
    for b in range(blocks):
        start[b + 1] += start[b]
    for b in prange(blocks):
        rows[start[b] : start[b + 1]] = 0
        k = start[b]
        for i in range(b * size // blocks, (b + 1) * size // blocks):
            if k == start[b + 1]:
                break
            rows[k] = i  # as in `stratified_rows`
            k += counts[i]
        for k in range(start[b] + 1, start[b + 1]):
            rows[k] = max(rows[k], rows[k - 1])
    return rows


@Kernel
def locate(uniform: Any, cumulative: Floats) -> Ints:
    """(M,) for each uniform the first row whose cumulative weight (N,), from 0 to 1, exceeds it: never a dead one."""
    rows = np.empty(len(uniform), dtype=np.int64)
    for k in prange(len(uniform)):
        low, high = 0, len(cumulative) - 1
        while low < high:
            middle = (low + high) // 2
            if uniform[k] < cumulative[middle]:
                high = middle
            else:
                low = middle + 1
        rows[k] = low
    return rows


@njit(cache=True)
def slots(rows: Ints) -> Ints:
    """(M,) which child goes to each slot, so that the first child of every parent below M keeps its parent's slot.

    The other children fill the free slots in order: a population of contiguous islands stays one.
    """
    size = len(rows)
    child = np.full(size, -1, dtype=np.int64)
    moved = np.empty(size, dtype=np.int64)
    count = 0
    for k in range(size):
        if rows[k] < size and child[rows[k]] < 0:
            child[rows[k]] = k
        else:
            moved[count] = k
            count += 1
    slot = 0
    for m in range(count):
        while child[slot] >= 0:
            slot += 1
        child[slot] = moved[m]
    return child
