"""A model and a potential whose time is put down to them."""

from __future__ import annotations

from typing import Any

from feynkac.base.clock import Stopwatch
from feynkac.base.contract import LogW, Mask, Model, Potential, Rng, Rows, State
from feynkac.smc.checks import name_of


class TimedModel:
    """`model`, with the time that it takes put down to "model" on `watch`."""

    def __init__(self, model: Model, watch: Stopwatch) -> None:
        self.name = name_of(model)
        self._model: Any = model
        self._watch = watch

    def init(self, n: int, rng: Rng) -> State:
        with self._watch.on("model"):
            return self._model.init(n, rng)

    def step(self, t: int, state: Any, rng: Rng) -> tuple[State, LogW]:
        with self._watch.on("model"):
            return self._model.step(t, state, rng)

    def done(self, state: Any) -> Mask:
        return self._model.done(state)

    def replay(self, t: int, state: Any, rng: Rng, reference: Any) -> tuple[State, LogW]:
        """Only of a model that `Replays`."""
        with self._watch.on("model"):
            return self._model.replay(t, state, rng, reference)

    def trace(self, state: Any, row: int) -> Any:
        """Only of a model that `Replays`."""
        return self._model.trace(state, row)


class TimedPotential:
    """`potential`, with the time that it takes put down to "potentials" on `watch`."""

    def __init__(self, potential: Potential, watch: Stopwatch) -> None:
        self.name = name_of(potential)
        self._potential, self._watch = potential, watch

    def level(self, t: int, state: Any, rows: Rows) -> LogW:
        with self._watch.on("potentials"):
            return self._potential.level(t, state, rows)

    def final(self, state: Any, rows: Rows) -> LogW:
        with self._watch.on("potentials"):
            return self._potential.final(state, rows)
