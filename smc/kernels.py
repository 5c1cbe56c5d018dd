"""Sequential and large-N resampling kernels: pure functions of weights and uniforms.

Shapes: `weight` (N,) float64, multiples of a typical weight, at least one of them not far from 1; `n` rows are asked
for; `uniform` float64 in [0, 1). Uniforms are only compared with numbers, so that the undecorated functions run
on symbolic ones too (`smc.testing`), as they do for arrays of objects. No kernel draws random numbers: numba has a
generator of its own, which no seed of ours would reach. `fastmath` stays off: it breaks -inf, and the order of sums.

One thread each: a scan is bound by memory soon after, and where the cores are busy (with the model, say) waiting for
threads costs more than the whole job. So results depend on no number of threads either. Results go into arrays of
the caller's: numpy backs large ones with huge pages, numba does not, and at 10^6 rows the page faults would cost twice
the work itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numba.extending import register_jitable
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Kernel:
    """A Python function compiled on first use, for arrays of numbers; `py_func` is the function itself."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.py_func = function
        self.compiled = njit(cache=True, error_model="numpy")(function)

    def __call__(self, *args: Any) -> Any:
        symbolic = any(isinstance(arg, np.ndarray) and arg.dtype == object for arg in args)
        return (self.py_func if symbolic else self.compiled)(*args)


@register_jitable
def _fill(rows: Ints) -> None:
    """Let every 0 after the head of a family repeat that head."""
    parent = 0
    for k in range(len(rows)):
        head = rows[k]
        # Written with masks, since compilers make an unpredictable branch of a maximum.
        parent = (parent & ((head - 1) >> 63)) | head
        rows[k] = parent


@register_jitable
def _last_live(weight: Floats) -> int:
    """The last row with weight. It takes the points that rounding leaves over."""
    last = len(weight) - 1
    while weight[last] == 0.0:
        last -= 1
    return last


@Kernel
def systematic_rows(weight: Floats, scale: float, uniform: Any, rows: Ints) -> Ints:
    """Fill `rows` (n,) with sorted parents by systematic resampling; `uniform` (1,), `scale` n over the total weight.

    Carpenter, Clifford, Fearnhead (1999). Search-free: ceil(n c - u) of the n points lie below a cumulative weight c.
    """
    rows[:] = 0  # in place: `rows` is the caller's
    u = uniform[0]
    k, cumulative = 0, 0.0
    for i in range(_last_live(weight) + 1):
        if k >= len(rows):
            break
        # A row without offspring is overwritten by the next; `_fill` then completes the larger families. So no
        # branch depends on the unpredictable number of children.
        rows[k] = i
        cumulative += weight[i]
        k = math.ceil(cumulative * scale - u)
    _fill(rows)
    return rows


@Kernel
def stratified_rows(weight: Floats, scale: float, uniform: Any, rows: Ints) -> Ints:
    """The same by stratified resampling, with one `uniform` a stratum (n,).

    Kitagawa (1996). One comparison decides the stratum where the cumulative weight falls.
    """
    rows[:] = 0  # in place: `rows` is the caller's
    n = len(rows)
    k, cumulative = 0, 0.0
    for i in range(_last_live(weight) + 1):
        if k >= n:
            break
        rows[k] = i
        cumulative += weight[i]
        x = cumulative * scale
        stratum = min(int(x), n - 1)
        k = stratum + (uniform[stratum] < x - stratum)
    _fill(rows)
    return rows


@register_jitable
def _pair(x: float, y: float, uniform: Any) -> tuple[bool, float, int]:
    """One step of SSP on the fractions x, y of rows i, j: whether i stays open, the open fraction, ones given out."""
    s = x + y
    if s < 1.0:
        # So a row without a fraction never takes one: x = 0 passes the opening on, y = 0 leaves it.
        return uniform < (x / s if s > 0.0 else 0.0), s, 0
    return uniform >= (1.0 - y) / (2.0 - s), s - 1.0, 1


@Kernel
def ssp_counts(weight: Any, scale: float, n: int, uniform: Any, counts: Any) -> Any:
    """Fill `counts` (N,), n in all, by the Srinivasan sampling process: the floor or the ceiling of weight_i * scale.

    `scale` is n over the total weight. Gerber, Chopin, Whiteley (2019). Row j decides with its own uniform whether it
    or the open row before it takes the fraction of both; that of row 0 is unused. `counts` may share the memory of
    `weight`: nothing behind weight j is written before weight j has been read.
    """
    i, x, given = 0, 0.0, 0
    for j in range(len(weight)):
        expected = weight[j] * scale
        whole = int(expected)
        counts[j] = whole
        stays, x, one = _pair(x, expected - whole, uniform[j])
        counts[j if stays else i] += one
        given += whole + one
        i = i if stays else j
    counts[i] += n - given  # what is open at the end is 0 or 1 up to rounding: the total decides which
    return counts


@Kernel
def rows_of(counts: Ints, rows: Ints) -> Ints:
    """Fill `rows` (n,) with sorted parents that have the given offspring `counts` (N,), which sum to n."""
    rows[:] = 0  # in place: `rows` is the caller's
    k = 0
    for i in range(len(counts)):
        if k == len(rows):
            break
        rows[k] = i  # as in `systematic_rows`
        k += counts[i]
    _fill(rows)
    return rows


@Kernel
def locate(uniform: Any, cumulative: Floats, rows: Ints) -> Ints:
    """Fill `rows` (M,) with the first row whose cumulative weight (N,), from 0 to 1, exceeds each uniform.

    That row is never a dead one: its cumulative weight exceeds the one before.
    """
    for k in range(len(uniform)):
        low, high = 0, len(cumulative) - 1
        while low < high:
            middle = (low + high) // 2
            if uniform[k] < cumulative[middle]:
                high = middle
            else:
                low = middle + 1
        rows[k] = low
    return rows


@Kernel
def assign_slots(rows: Ints, child: Ints) -> Ints:
    """Fill `child` (M,): which child goes to each slot, so that the first one of each parent below M keeps its slot.

    The other children fill the free slots in order: a population of contiguous islands stays one.
    """
    size = len(rows)
    child[:] = -1  # in place: `child` is the caller's
    for k in range(size):
        if rows[k] < size and child[rows[k]] < 0:
            child[rows[k]] = k
    slot = 0
    for k in range(size):
        if rows[k] < size and child[rows[k]] == k:
            continue
        while child[slot] >= 0:
            slot += 1
        child[slot] = k
    return child
