"""Moves of whole populations, at steps that are fixed beforehand, and waste-free SMC.

A move that leaves the target so far invariant keeps every expectation of the population as it is, hence the evidence
unbiased: E[sum_i w_i h(x_i)] = E[sum_i w_i (K h)(x_i)] for every h. This speaks of the whole population at a given
step, and of no part of it that its own weights select: to move only those that have just been resampled, because their
weights had become uneven, is a bias (a fifth of Z on a toy of `tests/exact/test_rejuvenation.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from feynkac.base.capabilities import Keeps, require
from feynkac.base.contract import LogW, Model, Move, Potential, Resample, Rng, Rows
from feynkac.base.errors import ArgumentError
from feynkac.smc.checks import call, check_levels, check_pair
from feynkac.smc.population import Population, advance, retire

FIRST = 1
"""The first step to which a population is taken back: a prompt is read once, at step 0."""


@dataclass(frozen=True)
class Past:
    """The population before step `t`, to be taken back to, and what has become of its rows."""

    t: int
    population: Population
    origin: Rows
    """(N,) the row there from which each row of today descends."""
    gained: LogW
    """(N,) nats, what each path from there on has added to its weight, resampling aside."""

    def fork(self, rows: Rows) -> Past:
        """The same for the population whose row `i` continues from `rows[i]`."""
        return replace(self, origin=self.origin[rows], gained=self.gained[rows])

    def follow(self, before: LogW, after: LogW) -> Past:
        """The same after a step that has taken log-weights from `before` to `after`."""
        alive = after > -np.inf
        step = np.subtract(after, before, out=np.full(len(after), -np.inf), where=alive)
        return replace(self, gained=self.gained + step)


class Kernel(Protocol):
    """A Markov kernel that leaves the target so far invariant."""

    @property
    def block(self) -> int:
        """How many steps it takes a population back; 0: none."""
        ...

    def __call__(self, t: int, now: Population, past: Past | None, rng: Rng, /) -> tuple[Population, Past | None]: ...


@dataclass(frozen=True)
class Moves:
    """The moves of a user, one after the other (`feynkac.base.contract.Move`)."""

    moves: tuple[Move, ...]
    block: int = field(default=0, init=False)

    def __call__(self, t: int, now: Population, past: Past | None, rng: Rng) -> tuple[Population, Past | None]:
        """They share one stream, so that each has fresh numbers."""
        for move in self.moves:
            moved = call(move, t, now.state, now.level, now.alive, rng, of=move, what="move", t=t)
            state, level = check_pair(moved, of=move, what=".move", t=t, wanted="the state and the (N,) levels")
            now = replace(now, state=state, level=check_levels(level, move=move, t=t, log_weight=now.log_weight))
        return now, past


@dataclass(frozen=True)
class Redraw:
    """Draws the last steps of every running row anew from the model, and takes them with the Metropolis-Hastings rule.

    The path from the population of `block` steps ago on is proposed by the model's own steps, with its increments and
    levels; it replaces the old one with probability min(1, exp(its gain - the old one's gain)), where a gain is what
    the path has added to the log-weight. This is the independence sampler on paths (particle independent
    Metropolis-Hastings with one particle; Andrieu, Doucet, Holenstein 2010, section 2.4.2): as it compares weights that
    were really drawn, it leaves the target invariant for every properly weighted step, also where increments are random
    estimates. Rows that have finished stay as they are; a path that ends before step `t` is not taken.
    """

    model: Model
    potential: Potential
    block: int

    def __call__(self, t: int, now: Population, past: Past | None, rng: Rng) -> tuple[Population, Past | None]:
        """See `Kernel`."""
        assert past is not None
        kept = keep(now.state)  # what is drawn below must not take it away
        n, moving = len(now.done), now.alive & ~now.done
        new = past.population.fork(t, past.origin, np.where(moving, 0.0, -np.inf), self.model)
        retire(new.state, new.log_weight)
        for s in range(past.t, t):
            new = advance(s, new, self.model, self.potential, rng)
        ratio = np.exp(np.minimum(np.subtract(new.log_weight, past.gained, where=moving, out=np.zeros(n)), 0.0))
        lower = np.array([bool(u < r) for u, r in zip(rng.uniform(n), ratio, strict=True)])
        taken = moving & ~new.done & lower
        state = _concat([kept, new.state]).fork(np.arange(n) + n * taken)
        gained = np.where(taken, new.log_weight, past.gained)
        return replace(now, state=state, level=np.where(taken, new.level, now.level)), replace(past, gained=gained)


class Rejuvenated(NamedTuple):
    """What becomes of R chosen rows."""

    population: Population
    rows: Rows
    """(N,) the chosen row from which each comes."""


@dataclass(frozen=True)
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

    def is_due(self, t: int, past: Past | None) -> bool:
        """Whether the population is moved before step `t`."""
        return t > 0 and t % self.every == 0 and (past is not None or not self.kernel.block)

    def keeps(self, t: int) -> bool:
        """Whether the population before step `t` is one that a later one is taken back to."""
        first = self.every - self.kernel.block < FIRST and t == FIRST
        return self.kernel.block > 0 and t >= FIRST and (first or (t + self.kernel.block) % self.every == 0)

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


def start_past(t: int, now: Population) -> Past:
    """The population before step `t`, kept."""
    n = len(now.done)
    return Past(t, replace(now, state=keep(now.state)), np.arange(n), np.zeros(n))


def keep(state: Any) -> Any:
    """A population that can be extended later, whatever is extended meanwhile."""
    refusal = f"{type(state).__name__} cannot be taken back to, or put together, as the texts of prompts can: leave"
    return require(state, Keeps, f"{refusal} moves=redraw(...) and chains= out", ArgumentError).keep()


def _concat(states: Sequence[Any]) -> Any:
    return states[0].concat(states[1:])


def _gather(stages: Sequence[Population], copies: Rows) -> Rejuvenated:
    """Chain by chain the first `copies` (R,) of its states, of equal weight."""
    n = len(copies)
    rows = np.repeat(np.arange(n), copies)
    stage = np.arange(len(rows)) - np.repeat(np.cumsum(copies) - copies, copies)
    level, done = (np.stack([getattr(each, name) for each in stages])[stage, rows] for name in ("level", "done"))
    state = _concat([each.state for each in stages]).fork(stage * n + rows)
    log_w = (stages[0].log_weight - np.log(copies))[rows]
    return Rejuvenated(Population(state, log_w, level, done), rows)
