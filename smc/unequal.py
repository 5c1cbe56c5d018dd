"""Resampling schemes that leave weights unequal, and so disturb the population less.

The contract is that of `smc.schemes`: the expected weight of every row is kept exactly.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW, Rng, Rows
from feynkac.base.numbers import read_particles, read_real
from feynkac.smc.schemes import Draw, Floats, Scheme, count_rows, stratified_rows
from feynkac.smc.weights import find_top, rescale

ESS_HALF = 3.0 + math.sqrt(8.0)
"""The bound on the ratio of weights at which the effective sample size is at least half the number of rows."""


def optimal(n: int) -> Scheme:
    """Keep `n` distinct rows with the least squared error of the weights: resampling without replacement.

    The heaviest rows keep their weight; of the others some survive, all with one weight 1/c. The population comes out
    with `n` rows: if fewer have mass, dead ones fill it up; one that has no more than `n` rows is left alone.
    Fearnhead, Clifford (2003). Raises ArgumentError for n < 1.
    """
    n = read_particles("optimal: n", n)

    def draw(log_weight: LogW, rng: Rng) -> Draw:
        largest = find_top(log_weight)
        if largest == -np.inf or len(log_weight) <= n:
            return None, log_weight
        order = np.argsort(-log_weight, kind="stable")
        if log_weight[order[n]] == -np.inf:
            rows = np.sort(order[:n])
            return rows, log_weight[rows]
        kept = count_heaviest(log_weight[order] - largest, n)
        rest = np.sort(order[kept:])
        # Relative to the heaviest of the rest: they may be too light to be seen beside the heaviest of all.
        weight, largest = rescale(log_weight[rest])
        survivors = rest[_make_distinct(stratified_rows(weight, n - kept, rng.uniform(1)), weight)]
        result = log_weight.copy()
        result[rest] = largest + math.log(weight.sum() / (n - kept))
        rows = np.sort(np.concatenate([order[:kept], survivors]))
        return rows, result[rows]

    return Scheme(f"optimal({n})", draw)


def count_heaviest(descending: LogW, n: int, log_left: float = -np.inf) -> int:
    """The number of the (K,) sorted log-weights that are kept for certain, among `n` rows in all.

    `log_left`: the log of all weights besides these, none of which is heavier. It is the first A with c w_A < 1, where
    c = (n - A) / (the sum of all weights from w_A on). Testing w_A against the c of A - 1 instead is the off-by-one of
    several published codes, which inflates the total. In logs, as the weights at the end may be too light to be seen
    beside the first.
    """
    most = min(len(descending), n)
    log_tails = np.logaddexp.accumulate(np.append(descending, log_left)[::-1])[::-1]
    light = np.log(np.arange(n, n - most, -1)) + descending[:most] < log_tails[:most]
    if most == n:
        light[n - 1] = True  # a single survivor stands for any tail
    return int(np.argmax(light)) if light.any() else most


def _make_distinct(rows: Rows, weight: Floats) -> Rows:
    """Undo the doubling of a row that is taken with probability 1 up to rounding."""
    again = np.flatnonzero(rows[1:] == rows[:-1])
    if len(again):
        unused = np.setdiff1d(np.flatnonzero(weight), rows)
        rows[again] = unused[np.argsort(-weight[unused])[: len(again)]]
    return rows


def chopthin(eta: float = ESS_HALF, n: int | None = None) -> Scheme:
    """Chop heavy rows and thin light ones until no two weights differ by more than a factor of `eta`.

    Rows below a threshold a survive with probability w/a and then weigh a; rows above b = eta a / 2 are split into
    equal parts, w/b of them on average; the others stay as they are. The threshold makes that `n` rows (N by default).
    No trigger is needed: a population whose weights are even enough is left alone. The ESS is at least
    4 eta / (1 + eta)^2 of the number of rows, one half by default.
    Gandy, Lau (2016). Raises ArgumentError for eta < 4, where a part could weigh less than a.
    """
    eta = read_real("chopthin: eta", eta, 4.0, ", the bound on the ratio of weights")
    n = None if n is None else read_particles("chopthin: n", n)

    def draw(log_weight: LogW, rng: Rng) -> Draw:
        weight, largest = rescale(log_weight)
        if largest == -np.inf:
            return None, log_weight
        target = count_rows(n, log_weight)
        live = np.flatnonzero(weight > LIGHTEST)
        w = weight[live]
        if len(w) == len(weight) == target and w.max() <= w.min() * eta / 2:
            return None, log_weight  # every row would have one child, itself
        a = _find_threshold(np.sort(w), target, eta)
        light, heavy = w < a, w > eta * a / 2
        counts = _draw_offspring(w, light, heavy, a, target, eta, rng)
        parts = np.where(light, largest + math.log(a), log_weight[live] - np.log(np.maximum(counts, 1)))
        return np.repeat(live, counts), np.repeat(parts, counts)

    return Scheme(f"chopthin(eta={eta:.4g}" + (f", n={n})" if n is not None else ")"), draw)


LIGHTEST = 1e-280
"""Relative weights below are dropped by chopthin: far below the rounding of the total, and 1/w would overflow."""


def _find_threshold(w: Floats, n: int, eta: float) -> float:
    """The a at which sum_i h(w_i) = n for the expected offspring h: w/a below a, 2w/(eta a) above eta a / 2, else 1.

    `w`: (K,) ascending, positive. The sum falls as a grows, and has the form A / a + B between neighbouring
    breakpoints a = w_i, where a row starts to be thinned, and a = 2 w_i / eta, where it stops being chopped.
    """
    chop = w * (2.0 / eta)
    sums = np.concatenate([[0.0], np.cumsum(w)])
    at = np.sort(np.concatenate([w, chop]))

    def parts(thinned: NDArray[np.intp], unchopped: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[Any]]:
        return sums[thinned] + (sums[-1] - sums[unchopped]) * (2.0 / eta), unchopped - thinned

    falling, fixed = parts(np.searchsorted(w, at, "left"), np.searchsorted(chop, at, "right"))
    j = int(np.searchsorted(-(falling / at + fixed), -n, "left"))
    if j == len(at):
        return float(sums[-1] / n)
    # Just below breakpoint j: what starts to be thinned there is not thinned yet, what stops being chopped still is.
    falling, fixed = parts(np.searchsorted(w, at[j : j + 1], "left"), np.searchsorted(chop, at[j : j + 1], "left"))
    return min(float(falling[0] / (n - fixed[0])), float(at[j])) if n > fixed[0] else float(at[j])


def _draw_offspring(
    w: Floats, light: NDArray[np.bool_], heavy: NDArray[np.bool_], a: float, n: int, eta: float, rng: Rng
) -> NDArray[np.int64]:
    """(K,) numbers of children, n in all: the floor or the ceiling of what is expected, by systematic resampling."""
    expected = np.where(light, w / a, np.where(heavy, np.maximum(w * (2.0 / (eta * a)), 1.0), 1.0))
    whole = np.floor(expected)
    counts = whole.astype(np.int64)
    left = n - int(whole.sum())
    if left > 0:
        counts += np.bincount(stratified_rows(expected - whole, left, rng.uniform(1)), minlength=len(w))
    return counts
