"""Steps drawn anew: a population is taken back, and new paths from there are taken or not (Metropolis, Hastings)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from feynkac.base.capabilities import Keeps, Retraces, TellsLogProb, require
from feynkac.base.contract import LogW, Mask, Model, Potential, Rng, Rows
from feynkac.base.errors import ArgumentError
from feynkac.smc.checks import call, name_of
from feynkac.smc.population import Population, advance, retire, take

FIRST = 1
"""The first step to which a population is taken back: a prompt is read once, at step 0."""
CANNOT_RETRACE = (
    "{} cannot be led along steps that another has taken, as the texts of prompts can: leave tail= out of "
    "moves=redraw(...)"
)


@dataclass(frozen=True)
class Past:
    """The population before step `t`, to be taken back to, and what has become of its rows."""

    t: int
    until: int | None
    """The step at which the block that is drawn anew ends, and the tail begins; None: there is no tail."""
    population: Population
    origin: Rows
    """(N,) the row there from which each row of today descends."""
    gained: LogW
    """(N,) nats, what each path from there on has added to its weight, resampling aside.

    Where there is a tail, and the block is over, less what `weigh_law` was at its end.
    """
    done: Mask
    """(N,) rows that had finished by the end of the block, as far as that has come."""

    def fork(self, rows: Rows) -> Past:
        """The same for the population whose row `i` continues from `rows[i]`."""
        return replace(self, origin=self.origin[rows], gained=self.gained[rows], done=self.done[rows])

    def follow(self, t: int, before: LogW, after: Population) -> Past:
        """The same after step `t`, which has taken log-weights from `before` to those of `after`."""
        if self.until is not None and t >= self.until:
            return self
        alive = after.alive
        gained = self.gained + np.subtract(after.log_weight, before, out=np.full(len(alive), -np.inf), where=alive)
        if t + 1 == self.until:
            gained = gained - weigh_law(after)
        return replace(self, gained=gained, done=after.done)

    def find_waiting(self, now: Population) -> Mask:
        """(N,) which rows of `now` have finished, and are still to be drawn anew, for they had not at step `t`."""
        return now.done & self.find_open(now)

    def find_open(self, now: Population) -> Mask:
        """(N,) which rows of `now` can be drawn anew: those with weight that had not finished at step `t`."""
        return now.alive & ~self.population.done[self.origin]


@dataclass(frozen=True)
class Redraw:
    """Draws a block of steps of each row anew from the model, and takes it with the Metropolis-Hastings rule.

    The path from the population of some steps ago on is proposed by the model's own steps, with its increments and
    levels; it replaces the old one with probability min(1, exp(its gain - the old one's gain)), where a gain is what
    the path has added to the log-weight. This is the independence sampler on paths (particle independent
    Metropolis-Hastings with one particle; Andrieu, Doucet, Holenstein 2010, section 2.4.2): as it compares weights that
    were really drawn, it leaves the target invariant for every properly weighted step, also where increments are random
    estimates.

    The last `tail` steps of a row stay what they were, behind a block that is new. They are proposed with probability
    one, so that each adds to the gain the log-probability that the model's law gives it, whatever it was drawn by once,
    and the levels behind the new block. A path that cannot take just these steps, no more and no less, is not taken.

    Rows that had finished before the block stay as they are. Those that have finished within it, or behind, are moved
    as others are, and may be running when they have been.
    """

    model: Model
    potential: Potential
    block: int
    tail: int = 0

    @property
    def back(self) -> int:
        """See `Kernel`."""
        return self.block + self.tail

    def __call__(self, t: int, now: Population, past: Past | None, rng: Rng) -> tuple[Population, Past | None]:
        """See `Kernel`."""
        assert past is not None
        kept = replace(now, state=keep(now.state))  # what is drawn below must not take it away
        n, moving = len(now.done), past.find_open(now)
        new = self._propose(t, past, kept, rng)
        gained = past.gained if past.until is None else past.gained + weigh_law(now)
        ratio = np.exp(np.minimum(np.subtract(new.log_weight, gained, where=moving, out=np.zeros(n)), 0.0))
        lower = np.array([bool(u < r) for u, r in zip(rng.uniform(n), ratio, strict=True)])
        taken = moving & lower
        moved = replace(
            now,
            state=concat([kept.state, new.state]).fork(np.arange(n) + n * taken),
            level=np.where(taken, new.level, now.level),
            done=np.where(taken, new.done, now.done),
        )
        gained = np.where(taken, new.log_weight, gained)
        return moved, replace(past, gained=gained if past.until is None else gained - weigh_law(moved))

    def _propose(self, t: int, past: Past, of: Population, rng: Rng) -> Population:
        """New paths from the past to before step `t`, and what they gain; -inf for rows that do not move."""
        new = past.population.fork(t, past.origin, np.where(past.find_open(of), 0.0, -np.inf), self.model)
        retire(new.state, new.log_weight)
        for s in range(past.t, t if past.until is None else past.until):
            new = advance(s, new, self.model, self.potential, rng)
        return new if past.until is None else self._retrace(past.until, new, past.done, of)

    def _retrace(self, start: int, new: Population, done: Mask, of: Population) -> Population:
        """`new`, which stands before step `start`, behind the steps that `of` has taken from there on.

        `done`: (N,) which rows of `of` had finished there. Rows that cannot take these steps lose their weight.
        """
        new = replace(new, log_weight=np.where(new.done == done, new.log_weight, -np.inf))
        retire(new.state, new.log_weight)
        model = require(self.model, Retraces, CANNOT_RETRACE.format(name_of(self.model)), ArgumentError)
        given = call(model.retrace, start, self.tail, new.state, of.state, of=model, what="retrace", t=start)
        for s, taken in enumerate(given, start):
            new = take(s, new, taken, self.model, self.potential, "retrace")
        return new


def start_past(t: int, now: Population, until: int | None = None) -> Past:
    """The population before step `t`, kept; the steps from there on, up to `until` if given, are to be drawn anew."""
    n = len(now.done)
    return Past(t, until, replace(now, state=keep(now.state)), np.arange(n), np.zeros(n), now.done)


def weigh_law(population: Population) -> LogW:
    """(N,) nats, log p of each row so far, and its level; 0 for rows without weight."""
    state, alive = population.state, population.alive
    state = require(state, TellsLogProb, CANNOT_RETRACE.format(type(state).__name__), ArgumentError)
    return np.where(alive, state.tell_log_prob(np.arange(len(alive))) + population.level, 0.0)


def keep(state: Any) -> Any:
    """A population that can be extended later, whatever is extended meanwhile."""
    refusal = f"{type(state).__name__} cannot be taken back to, or put together, as the texts of prompts can: leave"
    return require(state, Keeps, f"{refusal} moves=redraw(...) and chains= out", ArgumentError).keep()


def concat(states: Sequence[Any]) -> Any:
    """The rows of all these populations of one run, in order."""
    return states[0].concat(states[1:])
