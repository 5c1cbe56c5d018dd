"""The one loop: propose, weigh, resample.

Everything else in feynkac is a model, a potential, a resampler or a reader of this iterator.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import Retires, has
from feynkac.base.contract import LogW, Mask, Model, Move, Potential, Resample, Rng, Rows, State
from feynkac.base.errors import ArgumentError, PotentialError
from feynkac.smc.checks import (
    call,
    check_done,
    check_increment,
    check_levels,
    check_log_weights,
    check_pair,
    check_size,
    name_of,
)
from feynkac.smc.resample import put_in_place
from feynkac.smc.rng import Stream
from feynkac.smc.weights import effective_sample_size, log_sum_exp


class RandomSource(Protocol):
    """The source of all random numbers of a run: `rng.Streams`, or an enumeration of `smc.testing`."""

    def at(self, stream: Stream, step: int, sizes: Sequence[int] | None = None, group: int = 0) -> Rng: ...

    def child(self, number: int) -> RandomSource: ...


@dataclass(frozen=True)
class Step:
    """One weighted population, yielded after every step and valid to stop at.

    It is weighted for the target so far, p(x_{<=t}) psi_t, guess included; finished rows carry their final weight.
    """

    t: int
    state: State
    log_weight: LogW
    """(N,) absolute log-weights in nats: their log-sum-exp estimates the log evidence at any moment."""
    level: LogW
    """(N,) the level that each log-weight contains: a guess, until the row is done."""
    rows: Rows
    """(N,) the parent of each row in the population of step t - 1."""
    resampled: tuple[bool, ...]
    """Which groups began this step with a resampling."""
    done: Mask
    """(N,) rows that have finished."""
    groups: tuple[slice, ...]
    """The rows of each independent problem that runs in this batch."""
    parents: tuple[slice, ...]
    """The rows of each problem in the population of step t - 1, into which `rows` points."""
    by_chance: Mask | None = None
    """(N,) rows that chance has chosen in this step, where others were certain; None: any may be."""
    lost: NDArray[np.float64] | None = None
    """(P,) what the chances of this step add to the relative variance of the evidence of each island; None: unknown."""

    @property
    def log_z(self) -> float:
        """Log of the estimated normalising constant, in nats. In a run of several groups ask `group(g)`."""
        return log_sum_exp(self.log_weight)

    @property
    def ess(self) -> float:
        """Effective sample size, 1 / sum W^2, in particles."""
        return effective_sample_size(self.log_weight)

    @property
    def ended(self) -> bool:
        """Whether no row can move any more: each has finished or died."""
        return bool((self.done | (self.log_weight == -np.inf)).all())

    def group(self, g: int) -> Step:
        """This step as group `g` alone would see it, except that `state` holds the whole batch."""
        here, before = self.groups[g], self.parents[g]
        return Step(
            t=self.t,
            state=self.state,
            log_weight=self.log_weight[here],
            level=self.level[here],
            rows=self.rows[here] - before.start,
            resampled=(self.resampled[g],),
            done=self.done[here],
            groups=(slice(0, here.stop - here.start),),
            parents=(slice(0, before.stop - before.start),),
            by_chance=None if self.by_chance is None else self.by_chance[here],
            lost=None if self.lost is None else np.split(self.lost, len(self.groups))[g],
        )


def smc(
    model: Model,
    potential: Potential,
    *,
    n: int | Sequence[int] | None = None,
    resample: Resample,
    rng: RandomSource,
    moves: Sequence[Move] = (),
    start: Step | None = None,
) -> Iterator[Step]:
    """Run sequential Monte Carlo and yield the weighted population of every step.

    The target is p(x) exp(potential.final(x)); E[exp(log_z)] is its normalising constant, and
    E[sum_i exp(log_weight_i) f(x_i)] = Z E_target[f], for every resampler that keeps its contract (Del Moral 2004,
    Theorem 7.4.2). Resampling opens a step rather than closing it: what is yielded is weighted, a particle about to
    die costs no work, and the last population is never resampled.

    `n` is the number of particles, or one number for each of several independent problems whose rows `model` carries
    in one batch; these share the model's work and nothing else. `start`, instead of `n`, is a population to go on from,
    such as the last step of a run that was stopped: with the same random source the rest is what it would have been.
    Its state must be one that the model can still extend (a language model's cache and a pipeline only move forward),
    and nothing is yielded if it has ended.

    Raises ArgumentError for bad arguments, WeightError and PotentialError for NaN, +inf and wrong shapes. What the
    model or a resampler raises arrives as ModelError, what the potential raises as PotentialError, each with its step
    and its cause. Extinction is no error here: every log-weight is then -inf.
    """
    step = draw_first(model, n, rng) if start is None else _check_start(start, n)
    while not step.ended:
        step = _extend(step, model, potential, resample, rng, moves)
        yield step


def draw_first(model: Model, n: int | Sequence[int] | None, rng: RandomSource) -> Step:
    """The population before the first step, as a step of its own."""
    sizes = () if n is None else tuple(operator.index(size) for size in np.atleast_1d(n))
    if not sizes or min(sizes) < 1:
        raise ArgumentError(f"{n} particles; give at least one for each problem")
    state = call(model.init, sum(sizes), rng.at("init", 0, sizes), of=model, what="init")
    state = check_size(state, model=model, what="init", n=sum(sizes))
    log_w = np.concatenate([np.full(size, -math.log(size)) for size in sizes])
    level, done, groups = np.zeros(len(log_w)), np.zeros(len(log_w), dtype=np.bool_), slices(sizes)
    return Step(-1, state, log_w, level, np.arange(len(log_w)), (False,) * len(groups), done, groups, groups)


def _check_start(start: Step, n: int | Sequence[int] | None) -> Step:
    if n is not None:
        raise ArgumentError(f"n={n!r} with start=, which says itself how many particles there are; leave n out")
    return start


def _extend(
    before: Step, model: Model, potential: Potential, resample: Resample, rng: RandomSource, moves: Sequence[Move]
) -> Step:
    """The step after `before`: resample, rejuvenate, propose, weigh."""
    t, state, log_w, level, done, groups = (
        before.t + 1, before.state, before.log_weight, before.level, before.done, before.groups,
    )  # fmt: skip
    rows, resampled = np.arange(len(log_w)), (False,) * len(groups)
    if t:
        call(retire, state, log_w, of=model, what="init(...).retire", t=t)
        rows, log_w, resampled, groups = _select(t, log_w, done, groups, resample, rng)
        if any(resampled):
            forked = call(state.fork, rows, of=model, what="init(...).fork", t=t)
            state = check_size(forked, model=model, what="init(...).fork", n=len(rows))
            level, done = level[rows], done[rows]
        if moves:
            moving = np.repeat(resampled, _sizes(groups))
            state, level = _rejuvenate(t, state, level, log_w, moving, moves, rng.at("move", t, _sizes(groups)))
    finished = done
    stepped = call(model.step, t, state, rng.at("propose", t, _sizes(groups)), of=model, what="step", t=t)
    state, inc = check_pair(stepped, of=model, what=".step", t=t, wanted="the state and the (N,) increments")
    done = check_done(call(model.done, state, of=model, what="done", t=t), model=model, t=t, finished=finished)
    inc = check_increment(inc, model=model, t=t, n=len(log_w), finished=finished)
    moved = ~finished & (log_w + inc > -np.inf)
    log_w, level = weigh(t, state, potential, log_w + inc, level, moved, done)
    return Step(t, state, log_w, level, rows, resampled, done, groups, before.groups)


def retire(state: Any, log_w: LogW) -> None:
    if has(state, Retires):
        state.retire(np.flatnonzero(log_w == -np.inf))


def _select(
    t: int, log_w: LogW, done: Mask, groups: tuple[slice, ...], resample: Resample, rng: RandomSource
) -> tuple[Rows, LogW, tuple[bool, ...], tuple[slice, ...]]:
    """Resample each group that has not ended; survivors keep their slot."""
    rows, weights, resampled = [], [], []
    for g, part in enumerate(groups):
        mine, parents, size = log_w[part], None, part.stop - part.start
        if not (done[part] | (mine == -np.inf)).all():
            drawn = call(resample, mine, rng.at("resample", t, group=g), of=resample, t=t)
            parents, mine = check_pair(drawn, of=resample, what="", t=t, wanted="the parents and the log-weights")
        if parents is not None:
            parents, mine = put_in_place(parents, mine, size)
        rows.append((np.arange(size) if parents is None else parents) + part.start)
        weights.append(mine)
        resampled.append(parents is not None)
    return np.concatenate(rows), np.concatenate(weights), tuple(resampled), slices([len(w) for w in weights])


def _rejuvenate(
    t: int, state: State, level: LogW, log_w: LogW, forked: Mask, moves: Sequence[Move], rng: Rng
) -> tuple[State, LogW]:
    """Apply the moves one after the other; they share one stream, so that each has fresh numbers."""
    for move in moves:
        done = call(move, t, state, level, forked, rng, of=move, what="move", t=t)
        state, level = check_pair(done, of=move, what=".move", t=t, wanted="the state and the (N,) levels")
        level = check_levels(level, move=move, t=t, log_weight=log_w)
    return state, level


def weigh(
    t: int, state: State, potential: Potential, log_w: LogW, level: LogW, moved: Mask, done: Mask
) -> tuple[LogW, LogW]:
    """Exchange the old level in each moved row's log-weight for the new one, or for the final score if it is done."""
    new, source = level.copy(), name_of(potential)
    running, ended = np.flatnonzero(moved & ~done), np.flatnonzero(moved & done)
    if len(running):
        values = call(potential.level, t, state, running, of=potential, what="level", t=t, error=PotentialError)
        new[running] = check_log_weights(values, source=source, what="level", t=t, rows=running)
    if len(ended):
        values = call(potential.final, state, ended, of=potential, what="final", t=t, error=PotentialError)
        new[ended] = check_log_weights(values, source=source, what="final", t=t, rows=ended)
    dead = (log_w == -np.inf) | (new == -np.inf)
    log_w = np.where(dead, -np.inf, log_w + (new - level))
    new[dead] = 0.0  # the level that is subtracted next is finite, so that no -inf - -inf arises
    return log_w, new


def _sizes(groups: Sequence[slice]) -> list[int]:
    return [part.stop - part.start for part in groups]


def slices(sizes: Sequence[int]) -> tuple[slice, ...]:
    ends = list(itertools.accumulate(sizes))
    return tuple(slice(end - size, end) for end, size in zip(ends, sizes, strict=True))
