"""Short walks of a model that no weights touch, and what potentials say on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from feynkac.base.capabilities import Retires, Shows, Writes, has
from feynkac.base.contract import LogW, Rows
from feynkac.base.errors import PotentialError, quote
from feynkac.smc.checks import call, check_log_weights, name_of
from feynkac.smc.rng import KeyedRng, Streams
from feynkac.steering.recorder import show_samples


@dataclass(frozen=True)
class Place:
    """A population after a step."""

    t: int
    state: Any
    increment: LogW
    """(N,) nats."""
    running: Rows
    ended: Rows
    """Rows that have ended in this step, and are not dead."""

    @cached_property
    def shown(self) -> list[str]:
        """The rows in words; to be looked at before the next step, which may write to the state."""
        rows = np.arange(len(self.state))
        if has(self.state, Writes):
            return [quote(text) for text in self.state.texts(rows)]
        if has(self.state, Shows):
            return [quote(sample) for sample in show_samples(self.state, rows)]
        return [f"row {row}" for row in rows]


def walk(
    model: Any,
    n: int,
    steps: int,
    seed: int,
    fork: Callable[[int], Rows] | None = None,
    draw: Callable[[int, KeyedRng], KeyedRng] | None = None,
) -> Iterator[Place]:
    """The places of `n` rows on a walk, by the same draws for the same seed.

    `fork`: what is copied after each step; `draw`: the numbers of each step, in place of those given.
    """
    streams = Streams(seed)
    first = streams.at("init", 0, (n,))
    state = model.init(n, first if draw is None else draw(0, first))
    done, dead = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    for t in range(steps):
        rng = streams.at("propose", t, (n,))
        state, increment = model.step(t, state, rng if draw is None else draw(t, rng))
        now = np.asarray(model.done(state), np.bool_)
        dead |= np.asarray(increment) == -np.inf
        if fork is not None:
            rows = fork(t)
            state, increment = state.fork(rows), np.asarray(increment)[rows]
            now, done, dead = now[rows], done[rows], dead[rows]
        yield Place(t, state, increment, np.flatnonzero(~now & ~dead), np.flatnonzero(now & ~done & ~dead))
        if has(state, Retires):
            state.retire(np.flatnonzero(dead))
        done = now
        if (done | dead).all():
            return


@dataclass
class Answers:
    """What a potential said of each row at each place."""

    levels: list[LogW] = field(default_factory=list)
    """For each step (N,) nats; NaN where it was not asked."""
    finals: list[LogW] = field(default_factory=list)
    shown: list[list[str]] = field(default_factory=list)

    @property
    def worth(self) -> list[LogW]:
        """For each step (N,) nats: the final of those that have ended in it, the level of those that run."""
        return [np.where(np.isnan(final), level, final) for level, final in zip(self.levels, self.finals, strict=True)]


CLOSE = 1e-4
"""How far, in nats or of the number, two answers to one question may lie apart: what a network rounds otherwise."""


def ask(potential: Any, place: Place, answers: Answers, parts: Sequence[range] | None = None) -> None:
    """Ask of all rows at a place at once, or of each of `parts` by itself, one after the other."""
    n = len(place.state)
    level, final = np.full(n, np.nan), np.full(n, np.nan)
    for part in [range(n)] if parts is None else parts:
        for rows, values, what in ((place.running, level, "level"), (place.ended, final, "final")):
            asked = rows[(rows >= part.start) & (rows < part.stop)]
            if len(asked):
                values[asked] = _ask(potential, what, place, asked)
    answers.levels.append(level)
    answers.finals.append(final)
    answers.shown.append(place.shown)


def _ask(potential: Any, what: str, place: Place, rows: Rows) -> LogW:
    t, given = place.t, rows.copy()
    if what == "level":
        values = call(potential.level, t, place.state, given, of=potential, what=what, t=t, error=PotentialError)
    else:
        values = call(potential.final, place.state, given, of=potential, what=what, t=t, error=PotentialError)
    if not np.array_equal(given, rows):
        raise PotentialError(
            f"'{name_of(potential)}'.{what} at step {t} wrote to the rows that it was given; copy them"
        )
    return check_log_weights(values, source=name_of(potential), what=what, t=t, rows=rows)
