"""A weighted population between two steps, and the step itself: propose, weigh."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from feynkac.base.capabilities import Retires, has
from feynkac.base.contract import LogW, Mask, Model, Potential, Rng, Rows
from feynkac.base.errors import PotentialError
from feynkac.smc.checks import call, check_done, check_increment, check_log_weights, check_pair, check_size, name_of


@dataclass(frozen=True)
class Population:
    """N rows, with what the engine knows of them."""

    state: Any
    log_weight: LogW
    """(N,) nats."""
    level: LogW
    """(N,) nats, the level that each log-weight contains."""
    done: Mask
    """(N,) rows that have finished."""
    increment: LogW | None = None
    """(N,) nats that the model added in the step that led here; None where none did."""

    @property
    def alive(self) -> Mask:
        """(N,) rows with weight."""
        return self.log_weight > -np.inf

    def fork(self, t: int, rows: Rows, log_weight: LogW, model: Model) -> Population:
        """The population of a `model` whose row `i` continues from `rows[i]`, with these log-weights."""
        forked = call(self.state.fork, rows, of=model, what="init(...).fork", t=t)
        state = check_size(forked, model=model, what="init(...).fork", n=len(rows))
        return Population(state, log_weight, self.level[rows], self.done[rows])


def advance(t: int, before: Population, model: Model, potential: Potential, rng: Rng) -> Population:
    """The population after step `t`, weighed; where none of it runs it is what it was."""
    if not (before.alive & ~before.done).any():
        return replace(before, increment=None)
    stepped = call(model.step, t, before.state, rng, of=model, what="step", t=t)
    return take(t, before, stepped, model, potential, "step")


def take(t: int, before: Population, stepped: Any, model: Model, potential: Potential, what: str) -> Population:
    """The population after step `t`, weighed; `stepped`: what the method `what` of the model returned for it."""
    state, inc = check_pair(stepped, of=model, what=f".{what}", t=t, wanted="the state and the (N,) increments")
    done = check_done(call(model.done, state, of=model, what="done", t=t), model=model, t=t, finished=before.done)
    inc = check_increment(inc, model=model, what=what, t=t, n=len(before.log_weight), finished=before.done)
    log_w = before.log_weight + inc
    moved = ~before.done & (log_w > -np.inf)
    return Population(state, *weigh(t, state, potential, log_w, before.level, moved, done), done, inc)


def weigh(
    t: int, state: Any, potential: Potential, log_w: LogW, level: LogW, moved: Mask, done: Mask
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


def retire(state: Any, log_w: LogW) -> None:
    """Tell a state which of its rows have no weight."""
    if has(state, Retires):
        state.retire(np.flatnonzero(log_w == -np.inf))
