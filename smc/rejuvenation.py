"""Moves of whole populations, at steps that are fixed beforehand, and waste-free SMC.

A move that leaves the target so far invariant keeps every expectation of the population as it is, hence the evidence
unbiased: E[sum_i w_i h(x_i)] = E[sum_i w_i (K h)(x_i)] for every h. This speaks of the whole population at a given
step, and of no part of it that its own weights select: to move only those that have just been resampled, because their
weights had become uneven, is a bias (a fifth of Z on a toy of `tests/exact/test_rejuvenation.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np

from feynkac.base.contract import Move, Resample, Rng, Rows
from feynkac.smc.checks import call, check_levels, check_pair
from feynkac.smc.population import Population
from feynkac.smc.redraws import FIRST, Past, concat, keep, start_past


class Kernel(Protocol):
    """A Markov kernel that leaves the target so far invariant."""

    @property
    def back(self) -> int:
        """How many steps it takes a population back; 0: none, and then it leaves what has finished as it is."""
        ...

    @property
    def tail(self) -> int:
        """How many of these, the last ones, stay what they were."""
        ...

    def __call__(self, t: int, now: Population, past: Past | None, rng: Rng, /) -> tuple[Population, Past | None]: ...


@dataclass(frozen=True)
class Moves:
    """The moves of a user, one after the other (`feynkac.base.contract.Move`)."""

    moves: tuple[Move, ...]
    back: int = field(default=0, init=False)
    tail: int = field(default=0, init=False)

    def __call__(self, t: int, now: Population, past: Past | None, rng: Rng) -> tuple[Population, Past | None]:
        """They share one stream, so that each has fresh numbers."""
        for move in self.moves:
            moved = call(move, t, now.state, now.level, now.alive, rng, of=move, what="move", t=t)
            state, level = check_pair(moved, of=move, what=".move", t=t, wanted="the state and the (N,) levels")
            now = replace(now, state=state, level=check_levels(level, move=move, t=t, log_weight=now.log_weight))
        return now, past


class Rejuvenated(NamedTuple):
    """What becomes of R chosen rows."""

    population: Population
    rows: Rows
    """(N,) the chosen row from which each comes."""


@dataclass
class Rejuvenation:
    """When a population is moved, and how: before the steps `every`, 2 `every`, ..., by `kernel`.

    With `choose` and `copies` it is waste-free SMC (Dau, Chopin 2022): `choose` resamples fewer rows, M, from each of
    them a chain of `copies` - 1 moves starts, and all states of all chains are the new population, each with an equal
    part of its chain's weight. Every state of a chain is by itself properly weighted, since the kernel leaves the
    target invariant; so are all of them together: the evidence is unbiased for any M and `copies`.
    """

    kernel: Kernel
    every: int = 1
    choose: Resample | None = None
    copies: int = 1
    past: Past | None = field(default=None, init=False)
    """The population that the run on its way will be taken back to; None: to none."""

    def is_due(self, t: int, past: Past | None) -> bool:
        """Whether the population is moved before step `t`."""
        return t > 0 and t % self.every == 0 and (past is not None or not self.kernel.back)

    def start_past(self, t: int, now: Population) -> Past | None:
        """The population before step `t`, if it is one that a later one is taken back to."""
        due = t - t % self.every + self.every
        until = due - self.kernel.tail
        if not self.kernel.back or t != max(due - self.kernel.back, FIRST) or t >= until:
            return None
        return start_past(t, now, until if self.kernel.tail else None)

    def apply(
        self, t: int, now: Population, past: Past | None, chosen: Sequence[bool], sizes: Sequence[int], rng: Rng
    ) -> Rejuvenated:
        """Move a population; `chosen`: which groups, of these `sizes`, have been resampled by `choose`."""
        if self.choose is None:
            return Rejuvenated(self.kernel(t, now, past, rng)[0], np.arange(len(now.done)))
        stages = [replace(now, state=keep(now.state))]
        for _ in range(self.copies - 1):
            now, past = self.kernel(t, now, past, rng)
            stages.append(replace(now, state=keep(now.state)))
        return _gather(stages, np.repeat(np.where(chosen, self.copies, 1), sizes))


def _gather(stages: Sequence[Population], copies: Rows) -> Rejuvenated:
    """Chain by chain the first `copies` (R,) of its states, of equal weight."""
    n = len(copies)
    rows = np.repeat(np.arange(n), copies)
    stage = np.arange(len(rows)) - np.repeat(np.cumsum(copies) - copies, copies)
    level, done = (np.stack([getattr(each, name) for each in stages])[stage, rows] for name in ("level", "done"))
    state = concat([each.state for each in stages]).fork(stage * n + rows)
    log_w = (stages[0].log_weight - np.log(copies))[rows]
    return Rejuvenated(Population(state, log_w, level, done), rows)
