"""SMC over all children: what may come next is weighed before anything is drawn, and drawn as little as can be.

A model that knows the law of its next choice (`Branches`) need not draw from it first and resample later. Of the rows
that run, `n` distinct ones are extended; all their children are weighed, those of equal histories once; and as many
distinct children are kept as there are places, `WIDTH * n` in all, to be weighed by the potential. Both choices are
those of Fearnhead and Clifford (2003). Rows that have finished keep their places, up to `(WIDTH - 1) * n` of them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import BranchingModel, Children, TellsAllowed, has
from feynkac.base.contract import LogW, Mask, Potential, Rng, Rows
from feynkac.base.errors import ArgumentError
from feynkac.smc.checks import call, check_done, check_size
from feynkac.smc.children import choose
from feynkac.smc.engine import RandomSource, Step, draw_first
from feynkac.smc.population import retire, weigh
from feynkac.smc.resample import put_in_place
from feynkac.smc.unequal import optimal
from feynkac.smc.weights import log_sum_exp

WIDTH = 4
"""Rows that are kept for each that is extended: places for what has finished, and a choice for the potential."""


def branching_smc(
    model: BranchingModel,
    potential: Potential,
    *,
    n: int | Sequence[int] | None = None,
    rng: RandomSource,
    islands: int = 1,
    width: int = WIDTH,
    start: Step | None = None,
) -> Iterator[Step]:
    """Run SMC over all children of its rows, and yield the weighted population of every step.

    As `smc.engine.smc`, with its target, steps and errors, except that selecting and extending are one:
    E[sum_k exp(w_k) f(child k)] is the sum of exp(w_i) p(c) f(c) over all rows i and their children c. `n` is the
    number of rows of each problem that are extended in a step, of `width * n`, in `islands` equal parts that never mix.
    Where a part has fewer children than rows, the other rows are dead. `start`, instead of `n`, is a step to go on
    from. Raises ArgumentError for a `width` below 2.
    """
    if width < 2:
        raise ArgumentError(f"width={width}; there must be places for rows that have finished, so give at least 2")
    if start is None:
        sizes = () if n is None else [width * operator.index(size) for size in np.atleast_1d(n)]
        start = draw_first(model, sizes, rng)
    run = _Run(model, potential, rng, start, islands, width)
    while not run.step.ended:
        yield run.advance()


class _Extended(NamedTuple):
    """The rows of one island that are extended."""

    rows: Rows
    log_weight: LogW
    by_chance: Mask
    """(R,) which of them only chance has chosen, all with one weight."""


class _Kept(NamedTuple):
    """The new rows of one island."""

    parents: Rows
    at: Rows
    child: NDArray[Any]
    log_weight: LogW
    by_chance: Mask


class _Run:
    """One run, from step to step."""

    def __init__(
        self,
        model: BranchingModel,
        potential: Potential,
        rng: RandomSource,
        start: Step,
        islands: int,
        width: int,
    ) -> None:
        self._model, self._potential, self._rng = model, potential, rng
        self._islands, self._width = islands, width
        self.step = start
        self._order: Rows = np.arange(len(start.log_weight)) if start.order is None else start.order

    def advance(self) -> Step:
        """The next step: weigh all children, keep some, weigh these by the potential."""
        before, model, t = self.step, self._model, self.step.t + 1
        parts = [part for group in before.groups for part in _cut(group, self._islands)]
        streams = [self._rng.at("resample", t, group=g) for g in range(len(before.groups))]
        sources = [stream for stream in streams for _ in range(self._islands)]
        extended = [self._thin(part, source) for part, source in zip(parts, sources, strict=True)]
        rows = np.concatenate([each.rows for each in extended])
        call(self._retire, rows, of=model, what="init(...).retire", t=t)
        children = call(model.branch, t, before.state, rows, of=model, what="branch", t=t)
        histories = np.split(children.history, np.cumsum([len(each.rows) for each in extended])[:-1])
        kept = [
            self._select(part, each, numbers, children, source)
            for part, each, numbers, source in zip(parts, extended, histories, sources, strict=True)
        ]
        lost = [
            _count_lost(each.log_weight + children.log_mass[numbers], each.log_weight, each.by_chance, new.log_weight)
            for each, numbers, new in zip(extended, histories, kept, strict=True)
        ]
        parents, at, child, log_w, by_chance = map(np.concatenate, zip(*kept, strict=True))
        self.step = self._weigh(_Kept(parents, at, child, log_w, by_chance), children)
        return self._note(parts, lost, log_w)

    def _thin(self, part: slice, rng: Rng) -> _Extended:
        """The rows of a part that are extended: as many as may be, relatives side by side."""
        step, most = self.step, (part.stop - part.start) // self._width
        rows = part.start + np.flatnonzero(~step.done[part] & (step.log_weight[part] > -np.inf))
        rows = rows[np.argsort(self._order[rows])]
        if step.t < 0 or len(rows) <= most:  # the first rows are one history
            return _Extended(rows, step.log_weight[rows], np.zeros(len(rows), np.bool_))
        kept, log_weight = optimal(most)(step.log_weight[rows], rng)
        assert kept is not None
        return _Extended(rows[kept], log_weight, log_weight != step.log_weight[rows[kept]])

    def _retire(self, rows: Rows) -> None:
        log_w = np.where(self.step.done, self.step.log_weight, -np.inf)
        log_w[rows] = 0.0
        retire(self.step.state, log_w)

    def _select(self, part: slice, extended: _Extended, histories: NDArray[Any], children: Children, rng: Rng) -> _Kept:
        """The children that a part keeps, survivors in the slots of their parents."""
        step, size = self.step, part.stop - part.start
        if step.done[part][step.log_weight[part] > -np.inf].all():
            same, none = np.arange(part.start, part.stop), np.full(size, -1)
            return _Kept(same, none, none, step.log_weight[part], none >= 0)
        numbers, first, member = np.unique(histories, return_index=True, return_inverse=True)
        # Equal histories are one. Their levels should be, too; where a guess was noise, each keeps its own weight.
        log_target, level = np.full(len(numbers), -np.inf), step.level[extended.rows]
        np.logaddexp.at(log_target, member, extended.log_weight - level)
        resting, settled, thinned = self._rest(part, rng)
        floor = log_sum_exp(settled) - math.log(size)
        found = choose(children.among(numbers), log_target + level[first], size - len(resting), rng, floor)
        none = np.full(len(resting), -1)
        columns = (
            (extended.rows[first][found.at], resting), (numbers[found.at], none), (found.child, none),
            (found.log_weight, settled), (found.by_chance, thinned),
        )  # fmt: skip
        return _place(columns, part)

    def _rest(self, part: slice, rng: Rng) -> tuple[Rows, LogW, Mask]:
        """The finished rows of a part for which there is room, their weights, and which of them chance has chosen."""
        step, size = self.step, part.stop - part.start
        rows = part.start + np.flatnonzero(step.done[part] & (step.log_weight[part] > -np.inf))
        kept, log_weight = optimal(size - size // self._width)(step.log_weight[rows], rng)
        rows = rows if kept is None else rows[kept]
        return rows, log_weight, log_weight != step.log_weight[rows]

    def _weigh(self, new: _Kept, children: Children) -> Step:
        """The step whose rows are these."""
        before, model, t = self.step, self._model, self.step.t + 1
        state = call(model.descend, t, before.state, children, *new[:3], of=model, what="descend", t=t)
        state = check_size(state, model=model, what="descend", n=len(new.parents))
        grown = new.child >= 0
        done = call(model.done, state, of=model, what="done", t=t)
        done = check_done(done, model=model, t=t, finished=before.done[new.parents] & ~grown)
        moved = tuple(not before.group(g).ended for g in range(len(before.groups)))
        log_w, level = weigh(t, state, self._potential, new.log_weight, before.level[new.parents], grown, done)
        self._order = np.lexsort((new.child, new.at)).argsort()
        groups, chance = before.groups, new.by_chance & grown
        left = log_w, level, new.parents, moved, done, groups, groups
        step = Step(t, state, *left, by_chance=chance, order=self._order)
        if not has(children, TellsAllowed):
            return step
        # Of a row's mass each child has carried a part: that which goes on, over all that it allows.
        increment = np.zeros(len(grown))
        increment[grown] = children.tell_allowed()[new.at[grown]]
        return replace(step, carried=new.log_weight - increment, increment=increment, ran=grown)

    def _note(self, parts: list[slice], lost: list[float], chosen: LogW) -> Step:
        """The step with what its chances have cost, in the rows that were extended and in their children."""
        step = self.step
        assert step.by_chance is not None
        log_w, chance = step.log_weight, step.by_chance
        own = [_count_lost(log_w[part], chosen[part], chance[part], log_w[part]) for part in parts]
        self.step = replace(step, lost=np.add(lost, own))
        return self.step


def _cut(group: slice, islands: int) -> list[slice]:
    """The equal parts of a group."""
    size = (group.stop - group.start) // islands
    return [slice(low, low + size) for low in range(group.start, group.stop, size)]


def _place(columns: Sequence[tuple[NDArray[Any], NDArray[Any]]], part: slice) -> _Kept:
    """The rows of columns in two pieces, each survivor in its slot, and dead ones for those that are missing."""
    size = part.stop - part.start
    missing = size - sum(map(len, columns[0]))
    fills = part.start, -1, -1, -np.inf, False
    dead = [np.full(missing, fill, pair[0].dtype) for pair, fill in zip(columns, fills, strict=True)]
    whole: list[NDArray[Any]] = [np.concatenate([*pair, rest]) for pair, rest in zip(columns, dead, strict=True)]
    order = put_in_place(whole[0] - part.start, np.arange(size, dtype=np.float64), size)[1].astype(np.int64)
    parents, at, child, log_weight, by_chance = (values[order] for values in whole)
    return _Kept(parents, at, child, log_weight, by_chance)


def _count_lost(log_weight: LogW, chosen: LogW, by_chance: Mask, whole: LogW) -> float:
    """The variance of the sum of those weights that chance has chosen, over the square of the sum of `whole`.

    They were equal when they were `chosen`; how unequal they are by now says how much it mattered which. Of a single
    one, how much it has changed.
    """
    total = log_sum_exp(whole)
    if total == -math.inf or not by_chance.any():
        return 0.0
    change = np.exp(log_weight[by_chance] - total) - np.exp(chosen[by_chance] - total)
    return float(len(change) * change.var(ddof=1)) if len(change) > 1 else float(change[0] ** 2)
