"""The one loop: propose, weigh, resample.

Everything else in feynkac is a model, a potential, a resampler or a reader of this iterator.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import offers
from feynkac.base.contract import LogW, Mask, Model, Move, Potential, Resample, Rng, Rows, State
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list
from feynkac.base.numbers import as_whole, read_particles
from feynkac.smc.checks import call, check_pair, check_parts, check_size, read_moves
from feynkac.smc.population import Population, advance, retire
from feynkac.smc.redraws import Past
from feynkac.smc.rejuvenation import Moves, Rejuvenation
from feynkac.smc.resample import at_step, put_in_place
from feynkac.smc.rng import Stream
from feynkac.smc.weights import effective_sample_size, log_sum_exp


@runtime_checkable
class RandomSource(Protocol):
    """The source of all random numbers of a run: `rng.Streams`, or an enumeration of `smc.testing`."""

    def at(self, stream: Stream, step: int, sizes: Sequence[int] | None = None, group: int = 0) -> Rng: ...

    def child(self, number: int) -> RandomSource: ...


_BY_ROW = ("by_chance", "waiting", "carried", "increment", "ran")
"""The fields of a step that may be unknown, and have a value for each row."""


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
    waiting: Mask | None = None
    """(N,) rows that have finished, and are yet to be drawn anew by a move of a later step; None: no row is."""
    carried: LogW | None = None
    """(N,) the log-weight with which each row entered the step, after resampling; None: not known."""
    increment: LogW | None = None
    """(N,) nats that the model added: log_weight = carried + increment + change of the level."""
    ran: Mask | None = None
    """(N,) whether the model has extended the row: the others had finished, or had no weight."""
    order: Rows | None = None
    """(N,) where each row stands among all, relatives side by side, for SMC over all children; None: they stand so."""

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
        """Whether no row can move any more: each has finished, and waits for no move, or has died."""
        finished = self.done if self.waiting is None else self.done & ~self.waiting
        return bool((finished | (self.log_weight == -np.inf)).all())

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
            lost=None if self.lost is None else np.split(self.lost, len(self.groups))[g],
            **{name: None if (all_rows := getattr(self, name)) is None else all_rows[here] for name in _BY_ROW},
        )


def smc(
    model: Model,
    potential: Potential,
    *,
    n: int | Sequence[int] | None = None,
    resample: Resample,
    rng: RandomSource,
    moves: Sequence[Move] | Rejuvenation = (),
    start: Step | None = None,
) -> Iterator[Step]:
    """Run sequential Monte Carlo and yield the weighted population of every step.

    The target is p(x) exp(potential.final(x)); E[exp(log_z)] is its normalising constant, and
    E[sum_i exp(log_weight_i) f(x_i)] = Z E_target[f], for every resampler that keeps its contract (Del Moral 2004,
    Theorem 7.4.2). Resampling opens a step rather than closing it: what is yielded is weighted, a particle about to
    die costs no work, and the last population is never resampled.

    `n` is the number of particles, or one number for each of several independent problems whose rows `model` carries
    in one batch; these share the model's work and nothing else. `start`, instead of `n`, is a population to go on from,
    such as the last step of a run that was stopped: with the same random source and `moves` the rest is what it would
    have been. Its state must be one that the model can still extend (a language model's cache and a pipeline only move
    forward), and nothing is yielded if it has ended.

    Raises ArgumentError for bad arguments, WeightError and PotentialError for NaN, +inf and wrong shapes. What the
    model or a resampler raises arrives as ModelError, what the potential raises as PotentialError, each with its step
    and its cause. Extinction is no error here: every log-weight is then -inf.
    """
    check_parts(model, potential, resample)
    if not offers(rng, RandomSource):
        raise ArgumentError(f"smc: rng is {quote(rng)}; give a source of random numbers, such as Streams(0)")
    step = draw_first(model, n, rng) if start is None else _check_start(start, n)
    if not isinstance(moves, Rejuvenation):
        moves = Rejuvenation(Moves(read_moves(moves)))
    if start is None:
        moves.past = None
    while not step.ended:
        step = _extend(step, model, potential, resample, rng, moves)
        yield step


def draw_first(model: Model, n: int | Sequence[int] | None, rng: RandomSource) -> Step:
    """The population before the first step, as a step of its own."""
    listed = [n] if as_whole(n) is not None else as_list(n) or ()
    sizes = tuple(size for each in listed if (size := as_whole(each)) is not None and size >= 1)
    if not sizes or len(sizes) < len(listed):
        raise ArgumentError(f"{quote(n)} particles; give at least one for each problem")
    read_particles("smc: n", sum(sizes))
    state = call(model.init, sum(sizes), rng.at("init", 0, sizes), of=model, what="init")
    state = check_size(state, model=model, what="init", n=sum(sizes))
    log_w = np.concatenate([np.full(size, -math.log(size)) for size in sizes])
    level, done, groups = np.zeros(len(log_w)), np.zeros(len(log_w), dtype=np.bool_), slices(sizes)
    return Step(-1, state, log_w, level, np.arange(len(log_w)), (False,) * len(groups), done, groups, groups)


def _check_start(start: Step, n: int | Sequence[int] | None) -> Step:
    if n is not None:
        raise ArgumentError(f"n={quote(n)} with start=, which says itself how many particles there are; leave n out")
    if not isinstance(start, Step):
        raise ArgumentError(f"smc: start is {quote(start)}; give a Step, such as the last one of a run")
    return start


def _extend(
    before: Step, model: Model, potential: Potential, resample: Resample, rng: RandomSource, moves: Rejuvenation
) -> Step:
    """The step after `before`: resample, rejuvenate, propose, weigh."""
    t, now = before.t + 1, Population(before.state, before.log_weight, before.level, before.done)
    groups = before.groups
    chosen = _Chosen(now, np.arange(len(now.done)), (False,) * len(groups), groups, None)
    if t:
        chosen = _choose(t, now, moves.past, groups, model, resample, rng, moves)
    now, rows, resampled, groups, past = chosen
    after = advance(t, now, model, potential, rng.at("propose", t, _sizes(groups)))
    past = moves.past = None if past is None else past.follow(t, now.log_weight, after)
    waiting = None if past is None else past.find_waiting(after)
    left = after.log_weight, after.level, rows, resampled, after.done, groups, before.groups
    ran = now.alive & ~now.done
    increment = np.zeros(len(ran)) if after.increment is None else np.where(ran, after.increment, 0.0)
    return Step(t, after.state, *left, None, None, waiting, now.log_weight, increment, ran)


class _Chosen(NamedTuple):
    """A population that is about to be extended, and where it comes from."""

    population: Population
    rows: Rows
    resampled: tuple[bool, ...]
    groups: tuple[slice, ...]
    past: Past | None


def _choose(
    t: int,
    now: Population,
    past: Past | None,
    groups: tuple[slice, ...],
    model: Model,
    resample: Resample,
    rng: RandomSource,
    moves: Rejuvenation,
) -> _Chosen:
    """Resample, and rejuvenate where it is due."""
    call(retire, now.state, now.log_weight, of=model, what="init(...).retire", t=t)
    due = moves.is_due(t, past)
    settled, scheme = now.done, resample
    if due and moves.choose is not None:
        # Chains start wherever the move changes rows: only where some still run would be a choice by the population.
        settled, scheme = now.done if past is None else now.done & ~past.find_open(now), moves.choose
    rows, log_w, resampled, groups = _select(t, now.log_weight, settled, groups, scheme, rng)
    now = now.fork(t, rows, log_w, model) if any(resampled) else replace(now, log_weight=log_w)
    past = None if past is None else past.fork(rows)
    if due:
        now, kept = moves.apply(t, now, past, resampled, _sizes(groups), rng.at("move", t, _sizes(groups)))
        sizes = [int(((kept >= part.start) & (kept < part.stop)).sum()) for part in groups]
        rows, past, groups = rows[kept], None, slices(sizes)
    return _Chosen(now, rows, resampled, groups, moves.start_past(t, now) or past)


def _select(
    t: int, log_w: LogW, settled: Mask, groups: tuple[slice, ...], resample: Resample, rng: RandomSource
) -> tuple[Rows, LogW, tuple[bool, ...], tuple[slice, ...]]:
    """Resample each group that has not ended, all its rows `settled` or dead; survivors keep their slot."""
    resample = at_step(resample, t)
    rows, weights, resampled = [], [], []
    for g, part in enumerate(groups):
        mine, parents, size = log_w[part], None, part.stop - part.start
        if not (settled[part] | (mine == -np.inf)).all():
            drawn = call(resample, mine, rng.at("resample", t, group=g), of=resample, t=t)
            parents, mine = check_pair(drawn, of=resample, what="", t=t, wanted="the parents and the log-weights")
        if parents is not None:
            parents, mine = put_in_place(parents, mine, size)
        rows.append((np.arange(size) if parents is None else parents) + part.start)
        weights.append(mine)
        resampled.append(parents is not None)
    return np.concatenate(rows), np.concatenate(weights), tuple(resampled), slices([len(w) for w in weights])


def _sizes(groups: Sequence[slice]) -> list[int]:
    return [part.stop - part.start for part in groups]


def slices(sizes: Sequence[int]) -> tuple[slice, ...]:
    ends = list(itertools.accumulate(sizes))
    return tuple(slice(end - size, end) for end, size in zip(ends, sizes, strict=True))
