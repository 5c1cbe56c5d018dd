"""A population between two steps as a tree, with the one that moves go back to, and with what its recorders know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.base.capabilities import Saves
from feynkac.smc.checks import call
from feynkac.smc.engine import Step
from feynkac.smc.population import Population
from feynkac.smc.redraws import Past, concat, keep
from feynkac.smc.rejuvenation import Rejuvenation
from feynkac.steering.checkpoints.fields import read_fields, write_fields
from feynkac.steering.recorder import Recorder

if TYPE_CHECKING:
    from feynkac.steering.checkpoints.saving import Saver

_MADE_AGAIN = ("step", "whole")
"""What a recorder has of the last population, which is written by itself."""
_OF_PAST = ("t", "until", "origin", "gained", "done")
_OF_POPULATION = ("log_weight", "level", "done")


class Follower:
    """Saves one run of the engine on its way: an observer behind all others."""

    def __init__(self, saver: Saver, model: Any, recorders: Sequence[Recorder]) -> None:
        self._saver, self._recorders = saver, recorders
        self._moves: Rejuvenation | None = None
        self.model = prepare(model)
        """The model that is to be run, in place of the one given."""

    def take_up(self, moves: Rejuvenation | None) -> Step | None:
        """The population to go on from, of which the recorders then know, and `moves`; None where the run begins."""
        self._moves, saved = moves, self._saver.take_up()
        if saved is None:
            return None
        step, past = read_step(self.model, saved, self._recorders)
        if moves is not None:
            moves.past = past
        self._saver.pace.note(step.t)
        return step

    def __call__(self, step: Step) -> None:
        if self._saver.pace.is_due(step.t):
            self.save(step)

    def save(self, step: Step) -> None:
        """Save the run as it is after `step`, unless that was saved. Raises ArgumentError for what cannot be."""
        past = None if self._moves is None else self._moves.past
        self._saver.save(step.t, lambda: write_step(self.model, step, self._recorders, past))


def prepare(model: Any) -> Any:
    """The model that is to be run, in place of `model`, one that `Saves`."""
    return call(model.prepare_saving, of=model, what="prepare_saving")


def write_step(model: Saves, step: Step, recorders: Sequence[Recorder], past: Past | None = None) -> dict[str, Any]:
    """`step`, a population of `model` as `prepare` gave it. Raises ArgumentError for what cannot be written.

    The rows of the past that it is to be taken back to stand behind its own, in one population: both are of one cache.
    """
    state = step.state if past is None else concat([step.state, past.population.state])
    return {
        "step": {each.name: getattr(step, each.name) for each in fields(step) if each.name != "state"},
        "past": None if past is None else _write_past(past),
        "state": call(model.save, state, of=model, what="save", t=step.t),
        "recorders": [read_fields(recorder, _MADE_AGAIN) for recorder in recorders],
    }


def read_step(model: Saves, saved: dict[str, Any], recorders: Sequence[Recorder]) -> tuple[Step, Past | None]:
    """The step and the past that `write_step` was given; the recorders then know of the step."""
    state = call(model.load, saved["state"], of=model, what="load")
    past = None
    if saved["past"] is not None:
        n = len(saved["step"]["log_weight"])
        past = _read_past(saved["past"], keep(state.fork(np.arange(n, len(state)))))
        state = state.fork(np.arange(n))
    step = Step(state=state, **saved["step"])
    for recorder, seen in zip(recorders, saved["recorders"], strict=True):
        write_fields(recorder, seen)
        recorder.step, recorder.whole = step.group(recorder.group), step
    return step, past


def _write_past(past: Past) -> dict[str, Any]:
    own = {name: getattr(past, name) for name in _OF_PAST}
    return {**own, "population": {name: getattr(past.population, name) for name in _OF_POPULATION}}


def _read_past(saved: dict[str, Any], state: Any) -> Past:
    own = {name: saved[name] for name in _OF_PAST}
    return Past(**own, population=Population(state, **saved["population"]))
