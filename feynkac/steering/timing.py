"""A model and a potential whose time is put down to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from feynkac.base.capabilities import Children, Remembers, has
from feynkac.base.clock import Stopwatch
from feynkac.base.contract import LogW, Mask, Model, Potential, Rng, Rows, State
from feynkac.base.memory import Memory
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

    def check_branches(self) -> None:
        """Only of a model that `Branches`."""
        self._model.check_branches()

    def branch(self, t: int, state: Any, rows: Rows) -> Children:
        """Only of a model that `Branches`."""
        with self._watch.on("model"):
            return self._model.branch(t, state, rows)

    def descend(self, t: int, state: Any, children: Children, parents: Rows, at: Rows, chosen: NDArray[Any]) -> State:
        """Only of a model that `Branches`."""
        with self._watch.on("model"):
            return self._model.descend(t, state, children, parents, at, chosen)

    def replay(self, t: int, state: Any, rng: Rng, reference: Any) -> tuple[State, LogW]:
        """Only of a model that `Replays`."""
        with self._watch.on("model"):
            return self._model.replay(t, state, rng, reference)

    def retrace(self, t: int, steps: int, state: Any, of: Any) -> Sequence[tuple[State, LogW]]:
        """Only of a model that `Retraces`."""
        with self._watch.on("model"):
            return self._model.retrace(t, steps, state, of)

    def trace(self, state: Any, row: int) -> Any:
        """Only of a model that `Replays`."""
        return self._model.trace(state, row)


class TimedPotential:
    """`potential`, with the time that it takes put down to "potentials" on `watch`.

    `places` are those of the run's problems in the call, of which it is told through the state.
    """

    def __init__(self, potential: Potential, watch: Stopwatch, places: Sequence[int] | None = None) -> None:
        self.name = name_of(potential)
        self._potential, self._watch, self._places = potential, watch, places

    def level(self, t: int, state: Any, rows: Rows) -> LogW:
        number_problems(state, self._places)
        with self._watch.on("potentials"):
            return self._potential.level(t, state, rows)

    def final(self, state: Any, rows: Rows) -> LogW:
        number_problems(state, self._places)
        with self._watch.on("potentials"):
            return self._potential.final(state, rows)


def number_problems(state: Any, places: Sequence[int] | None) -> None:
    """Let the problems of a run that has but some of a call have their `places` there."""
    if places is not None and has(state, Remembers) and isinstance(state.memory, Memory):
        state.memory.problems = places
