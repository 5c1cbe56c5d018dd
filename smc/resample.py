"""Resamplers are values, combined by functions: `islands(adaptive(ssp, ess=0.5), 8)`.

All satisfy `feynkac.base.contract.Resample`. Log-weights (N,) are absolute, in nats; the schemes are in `smc.schemes`
and `smc.unequal`, and can be imported from here.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np

from feynkac.base.contract import LogW, Resample, Rng, Rows
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_particles, read_share, read_steps
from feynkac.base.words import is_word
from feynkac.smc import kernels
from feynkac.smc.checks import check_resampler, name_of
from feynkac.smc.schemes import (
    NUMPY_UP_TO,
    Draw,
    Scheme,
    killing,
    multinomial,
    residual,
    ssp,
    stratified,
    systematic,
)
from feynkac.smc.unequal import chopthin, optimal
from feynkac.smc.weights import effective_sample_size, find_top, largest_share, normalise

__all__ = [
    "SCHEMES",
    "adaptive",
    "at_step",
    "by_name",
    "chopthin",
    "during",
    "islands",
    "killing",
    "mean_partition",
    "multinomial",
    "never",
    "optimal",
    "put_in_place",
    "residual",
    "shrink",
    "split",
    "ssp",
    "stratified",
    "systematic",
    "then",
]


def never(log_weight: LogW, rng: Rng) -> Draw:
    """Leave the population as it is: importance sampling."""
    return None, log_weight


SCHEMES: dict[str, Resample] = {
    "multinomial": multinomial,
    "residual": residual,
    "stratified": stratified,
    "systematic": systematic,
    "ssp": ssp,
    "killing": killing,
    "chopthin": chopthin(),
    "never": never,
}


def by_name(name: str) -> Resample:
    """The scheme called `name`. Raises ArgumentError that lists the names."""
    if not is_word(name, SCHEMES):
        raise ArgumentError(
            f"no resampler is called {quote(name)}; the names are {', '.join(SCHEMES)}, "
            "and any function of feynkac.smc.resample can be given as a value, such as optimal(16)"
        )
    return SCHEMES[name]


def adaptive(scheme: Resample, ess: float = 0.5, *, measure: Literal["ess", "max"] = "ess") -> Scheme:
    """Resample only when the effective sample size has fallen below the fraction `ess` of the rows.

    `measure`: "ess" is 1 / sum W^2, "max" the stricter 1 / max W. The trigger looks at the weights before the draw,
    so that evidence stays unbiased. With ess=0 it never does. Liu, Chen (1995); Huggins, Roy (2019). Raises
    ArgumentError for ess not in [0, 1].
    """
    check_resampler("adaptive: scheme", scheme)
    ess = read_share("adaptive: ess", ess, ", the share of the rows below which it resamples")
    if not is_word(measure, ("ess", "max")):
        raise ArgumentError(f"adaptive(measure={quote(measure)}); measure is 'ess' or 'max'")

    def draw(log_weight: LogW, rng: Rng) -> Draw:
        limit = ess * len(log_weight)
        enough = (
            effective_sample_size(log_weight) >= limit if measure == "ess" else largest_share(log_weight) * limit <= 1.0
        )
        return (None, log_weight) if enough else scheme(log_weight, rng)

    name = f"adaptive({name_of(scheme)}, ess={ess:g}{', measure=max' if measure == 'max' else ''})"
    return Scheme(name, draw, _follow(scheme, lambda inner: adaptive(inner, ess, measure=measure)))


def mean_partition(scheme: Resample) -> Scheme:
    """Let `scheme` see first the rows whose weight is below the mean, then the others, each in their order.

    For systematic and SSP resampling with weak potentials: almost no row dies while weights are nearly equal.
    Chopin, Singh, Soto, Vihola (2022). Raises ArgumentError.
    """
    check_resampler("mean_partition: scheme", scheme)

    def draw(log_weight: LogW, rng: Rng) -> Draw:
        below = normalise(log_weight) * len(log_weight) < 1.0
        order = np.argsort(~below, kind="stable")
        rows, new = scheme(log_weight[order], rng)
        return (None, log_weight) if rows is None else (order[rows], new)

    return Scheme(f"mean_partition({name_of(scheme)})", draw, _follow(scheme, mean_partition))


def islands(scheme: Resample, count: int) -> Scheme:
    """Resample `count` equal, contiguous parts of the population apart from each other.

    The islands are independent runs in one batch, whose log-sum-exps give a standard error of the evidence; they stay
    apart as long as `scheme` keeps the number of rows. Raises ArgumentError, at the draw for a number of rows that
    `count` does not divide.
    """
    check_resampler("islands: scheme", scheme)
    count = read_particles("islands: count", count)

    def draw(log_weight: LogW, rng: Rng) -> Draw:
        size, rest = divmod(len(log_weight), count)
        if rest:
            raise ArgumentError(
                f"{len(log_weight)} particles on {count} islands; choose a number of particles that {count} divides, "
                f"such as {count * max(size, 1)} or {count * (size + 1)}"
            )
        parts = [scheme(log_weight[k * size : (k + 1) * size], rng) for k in range(count)]
        if all(rows is None for rows, _ in parts):
            return None, log_weight
        rows = [(np.arange(size) if rows is None else rows) + k * size for k, (rows, _) in enumerate(parts)]
        return np.concatenate(rows), np.concatenate([new for _, new in parts])

    return Scheme(f"islands({name_of(scheme)}, {count})", draw, _follow(scheme, lambda inner: islands(inner, count)))


def split(k: int) -> Scheme:
    """Make each row `k` rows of 1/k its weight: nothing is random. Raises ArgumentError for k < 1."""
    k = read_particles("split: k", k)

    def draw(log_weight: LogW, rng: Rng) -> Draw:
        if k == 1 or find_top(log_weight) == -np.inf:
            return None, log_weight
        return np.repeat(np.arange(len(log_weight)), k), np.repeat(log_weight - math.log(k), k)

    return Scheme(f"split({k})", draw)


def shrink(scheme: Callable[..., Draw], n: int) -> Scheme:
    """`scheme` with `n` rows as its result, fewer or more than it is given.

    Raises ArgumentError for n < 1 and for a scheme without an `n=` argument.
    """
    check_resampler("shrink: scheme", scheme)
    n = read_particles("shrink: n", n)
    if "n" not in inspect.signature(scheme).parameters:
        raise ArgumentError(
            f"shrink({name_of(scheme)}): it cannot change the number of rows; shrink one of multinomial, residual, "
            "stratified, systematic and ssp, and combine the result, as in adaptive(shrink(ssp, 16))"
        )
    return Scheme(f"shrink({name_of(scheme)}, {n})", lambda log_weight, rng: scheme(log_weight, rng, n=n))


def then(first: Resample, second: Resample) -> Scheme:
    """`second` on the result of `first`, as in `then(split(4), optimal(16))`. Raises ArgumentError."""
    check_resampler("then: first", first)
    check_resampler("then: second", second)

    def draw(log_weight: LogW, rng: Rng) -> Draw:
        rows, middle = first(log_weight, rng)
        again, new = second(middle, rng)
        if rows is None or again is None:
            return (again if rows is None else rows), new
        return rows[again], new

    name = f"then({name_of(first)}, {name_of(second)})"
    timed = any(isinstance(each, Scheme) and each.timed for each in (first, second))
    return Scheme(name, draw, (lambda t: then(at_step(first, t), at_step(second, t))) if timed else None)


def during(scheme: Resample, steps: Iterable[int]) -> Scheme:
    """Resample by `scheme` when the model has taken one of these numbers of `steps`, such as range(20, 81), else never.

    The times are fixed beforehand, so that the evidence stays unbiased; the weights go on adding up in between. FK
    steering resamples during(multinomial, range(20, 81, 20)) (Singhal et al. 2025). Raises ArgumentError for what are
    no numbers of steps; drawn from by itself, without an engine that tells the step, for that.
    """
    check_resampler("during: scheme", scheme)
    when = read_steps("during: steps", steps)
    name = f"during({name_of(scheme)}, {when})"

    def draw(log_weight: LogW, rng: Rng) -> Draw:
        raise ArgumentError(f"{name} must be told the step; ask its at(t) for what draws before step t")

    return Scheme(name, draw, lambda t: at_step(scheme, t) if t in when else never)


def at_step(scheme: Resample, t: int) -> Resample:
    """What `scheme` is before step `t`."""
    return scheme.at(t) if isinstance(scheme, Scheme) else scheme


def _follow(scheme: Resample, make: Callable[[Resample], Resample]) -> Callable[[int], Resample] | None:
    return (lambda t: make(scheme.at(t))) if isinstance(scheme, Scheme) and scheme.timed else None


def put_in_place(rows: Rows, log_weight: LogW, n: int) -> tuple[Rows, LogW]:
    """The same children in another order, in which every survivor keeps its slot: `rows[i] == i` for one child.

    `rows`, `log_weight`: (M,) parents among `n` rows, and weights in nats. That holds for each parent i < M that has
    a child; the other children fill the free slots in order, so that contiguous islands stay contiguous. Sources of
    copies are never overwritten, hence a fork needs no second buffer (Murray, Lee, Jacob 2016).
    Raises ArgumentError for a parent that does not exist.
    """
    if len(rows) != len(log_weight):
        raise ArgumentError(f"a resampler returned {len(rows)} rows and {len(log_weight)} log-weights; return as many")
    if len(rows) == 0 or rows.min() < 0 or rows.max() >= n:
        raise ArgumentError(f"a resampler returned rows {rows} for {n} particles; return indices from 0 to {n - 1}")
    child = _assign_slots(rows) if len(rows) <= NUMPY_UP_TO else kernels.assign_slots(rows, np.empty_like(rows))
    return rows[child], log_weight[child]


def _assign_slots(rows: Rows) -> Rows:
    """`kernels.assign_slots` in numpy."""
    size = len(rows)
    child = np.full(size, -1)
    backwards = np.flatnonzero(rows < size)[::-1]
    child[rows[backwards]] = backwards  # the last assignment stands: that of the first child
    moved = np.ones(size, dtype=np.bool_)
    moved[child[child >= 0]] = False
    child[child < 0] = np.flatnonzero(moved)
    return child
