"""Which of all children are kept: optimal resampling where there are far more children than rows.

N distinct ones by the rule of Fearnhead and Clifford (2003): the heavy ones with their weight, of the others some, by
chance, all with one weight. No list of all children is made or sorted: the model lists those above a bound, and draws
among the others.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import Children
from feynkac.base.contract import LogW, Mask, Rng, Rows
from feynkac.smc.schemes import draw_counts
from feynkac.smc.unequal import count_heaviest
from feynkac.smc.weights import log_sum_exp

SLACK = 8.0
"""How far below the mean of the weights to be kept children are listed one by one."""


class Chosen(NamedTuple):
    """The children that a population keeps."""

    at: Rows
    """(K,) the history of each."""
    child: NDArray[np.int64]
    """(K,) which child of it."""
    log_weight: LogW
    """(K,) nats."""
    by_chance: Mask
    """(K,) whether it was drawn; the others were certain to be kept."""


class _Listed(NamedTuple):
    """Children one by one. Scores are in nats, relative to the total of all."""

    at: Rows
    child: NDArray[Any]
    log_score: LogW

    def take(self, which: Rows) -> _Listed:
        return _Listed(self.at[which], self.child[which], self.log_score[which])


class _Others(NamedTuple):
    """The children of J histories that are not listed."""

    children: Children
    log_weight: LogW
    """(J,) of the histories."""
    log_mass: LogW
    """(J,) of these children of each."""


def choose(children: Children, log_weight: LogW, n: int, rng: Rng, floor: float = -math.inf) -> Chosen:
    """`n` of the children of J histories with `log_weight` (J,).

    E[sum_k exp(w_k) 1{k is c}] = exp(log_weight_i) p(c) for each child c of history i. Which are kept follows the
    scores; the weights are proper whatever these are. Fewer are kept where no more have a score above -inf, and where
    more would be lighter than `floor`, in nats; of children that together are lighter, one is kept, or none.
    """
    total = log_sum_exp(log_weight + children.log_mass)
    if total == -math.inf:
        return Chosen(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0, np.bool_))
    listed, others = _list_heavy(children, log_weight - total, n, floor - total)
    log_left, m = log_sum_exp(others.log_mass), 0.0
    order = np.argsort(-listed.log_score, kind="stable")
    certain = np.ones(len(order), np.bool_)
    if log_left > -math.inf or len(order) > n:
        n_kept = count_heaviest(listed.log_score[order], n, log_left)
        certain[order[n_kept:]], m = False, float(n - n_kept)
        if log_sum_exp(np.append(listed.log_score[~certain], log_left)) - math.log(m) < floor - total:
            above = listed.log_score > floor - total
            left = math.exp(log_sum_exp(np.append(listed.log_score[~above], log_left)) + total - floor)
            if above.sum() + math.ceil(left) < n and left >= 1.0:
                return choose(children, log_weight, int(above.sum()) + math.ceil(left), rng)
            if left < 1.0 and above.sum() < n:
                certain, m = above, left
    kept, log_share = listed.take(np.flatnonzero(certain)), np.zeros(certain.sum())
    at, child = kept.at, kept.child
    if m > 0.0:
        drawn, log_threshold = _draw_light(listed.take(np.flatnonzero(~certain)), others, m, rng)
        at, child = np.concatenate([at, drawn.at]), np.concatenate([child, drawn.child])
        log_share = np.concatenate([log_share, drawn.log_score - log_threshold])
    new = log_weight[at] + children.weigh(at, child)[1] - log_share
    return Chosen(at, child, new, np.arange(len(at)) >= len(kept.at))


def _list_heavy(children: Children, log_weight: LogW, n: int, floor: float) -> tuple[_Listed, _Others]:
    """All children that are certain to be kept, with some that are not; and the others."""
    bound = -math.log(SLACK * n)
    while True:
        at, child = children.above(bound - log_weight)
        rest = children.without(at, child)
        others = _Others(rest, log_weight, log_weight + rest.log_mass)
        log_score = log_weight[at] + children.weigh(at, child)[0]
        # sum min(1, w / threshold) is n at the threshold: where it is n or more, the threshold is not below the bound.
        counted = float(np.exp(np.minimum(log_score - bound, 0.0)).sum())
        log_left = log_sum_exp(others.log_mass)
        if log_left == -math.inf or bound <= floor or counted + math.exp(log_left - bound) >= n:
            return _Listed(at, child, log_score), others
        bound = max(log_left - math.log(SLACK * (n - counted)), floor)


def _draw_light(listed: _Listed, others: _Others, m: float, rng: Rng) -> tuple[_Listed, float]:
    """`m` children, of those listed and of the others, without replacement; and the log of the weight of each.

    `m` is whole, or less than one: then one is drawn with that chance. By the Srinivasan sampling process over the
    listed ones and the masses of the others, children of one history side by side. Within such a mass each history has
    uniforms of its own: with a common one (systematic resampling) all would take their children at the same place,
    which in a vocabulary means the same tokens.
    """
    n, order = len(listed.at), np.argsort(np.append(listed.at, np.arange(len(others.log_mass))), kind="stable")
    log_items = np.concatenate([listed.log_score, others.log_mass])[order]
    top = float(log_items.max())
    weight = np.exp(log_items - top)
    # Less than one is one with that chance: a last item of the rest, which is nothing if it is drawn.
    scale, whole = m / float(weight.sum()), math.ceil(m)
    counts = draw_counts(np.append(weight, (whole - m) / scale), whole, rng.uniform(len(weight) + 1))[:-1]
    first = listed.take(order[(counts > 0) & (order < n)])
    histories, counts = order[order >= n] - n, counts[order >= n]
    at, each = np.repeat(histories, counts), np.repeat(counts, counts)
    number = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
    points = (number + rng.uniform(len(counts))[at]) * (1.0 / each)
    child = others.children.draw(at, points)
    score = others.log_weight[at] + others.children.weigh(at, child)[0]
    drawn = _Listed(
        np.concatenate([first.at, at]), np.concatenate([first.child, child]), np.concatenate([first.log_score, score])
    )
    return drawn, top - math.log(scale)
