"""Short walks of a model that no weights touch, and what potentials say on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from feynkac.base.capabilities import Retires, Shows, Writes, has
from feynkac.base.contract import LogW, Mask, Rows
from feynkac.base.errors import PotentialError
from feynkac.smc.checks import call, check_log_weights, name_of
from feynkac.smc.rng import Streams
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

    def show(self, row: int) -> str:
        """A row in words."""
        if has(self.state, Writes):
            return f"{self.state.texts(np.array([row]))[0]!r:.60}"
        if has(self.state, Shows):
            return f"{show_samples(self.state, np.array([row]))[0]!r:.60}"
        return f"row {row}"


def walk(model: Any, n: int, steps: int, seed: int, forks: Mapping[int, Rows] | None = None) -> Iterator[Place]:
    """The places of `n` rows on a walk, by the same draws for the same seed; `forks`: what is copied after a step."""
    streams = Streams(seed)
    state, done, dead = model.init(n, streams.at("init", 0, (n,))), np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    for t in range(steps):
        state, increment = model.step(t, state, streams.at("propose", t, (n,)))
        now = np.asarray(model.done(state), np.bool_)
        dead |= np.asarray(increment) == -np.inf
        if forks and t in forks:
            rows = forks[t]
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

    def find_other(self, others: Answers, at: Mask | None = None) -> tuple[int, int] | None:
        """The first step and row of which `others` say something else; `at`: rows that are compared."""
        for t, (mine, theirs) in enumerate(zip(self.worth, others.worth, strict=False)):
            same = np.isclose(mine, theirs, rtol=CLOSE, atol=CLOSE, equal_nan=True)
            found = np.flatnonzero(~same & (True if at is None else at))
            if len(found):
                return t, int(found[0])
        return None


CLOSE = 1e-4
"""How far, in nats or of the number, two answers to one question may lie apart: what a network rounds otherwise."""


def ask(potential: Any, place: Place, answers: Answers, *, singly: bool = False) -> None:
    """Ask of all rows at a place at once, or of each by itself, the last first."""
    n = len(place.state)
    level, final = np.full(n, np.nan), np.full(n, np.nan)
    for rows, values, what in ((place.running, level, "level"), (place.ended, final, "final")):
        for part in np.split(rows, len(rows))[::-1] if singly and len(rows) else [rows]:
            if len(part):
                values[part] = _ask(potential, what, place, part.copy())
    answers.levels.append(level)
    answers.finals.append(final)
    answers.shown.append([place.show(row) for row in range(n)])


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
