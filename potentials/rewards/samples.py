"""Functions of one decoded sample as potentials: what `fk.reward` and `fk.constraint` are on diffusion models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from feynkac.base.contract import LogW, Rows
from feynkac.base.errors import ArgumentError
from feynkac.potentials.diffusion import roles
from feynkac.potentials.rewards.batches import Batched, OneByOne
from feynkac.potentials.rewards.scoring import boolean, plain
from feynkac.potentials.rewards.texts import Every, Kind


def reward(f: Callable[..., Any], scale: float, kind: Kind, every: Every, batch: bool, name: str) -> roles.Reward:
    """See `potentials.rewards.reward`. Raises ArgumentError for boundaries that only texts have."""
    return roles.Reward(Batched(f, name) if batch else OneByOne(f, name), scale, kind, steps(every, name), name)


def constraint(f: Callable[..., Any], every: Every, name: str) -> roles.Constraint:
    """See `potentials.rewards.constraint`. Raises ArgumentError for boundaries that only texts have."""
    return roles.Constraint(OneByOne(f, name, boolean), steps(every, name), name)


def plain_function(f: Callable[..., Any], name: str) -> Plain:
    """See `potentials.rewards.plain_function`."""
    return Plain(OneByOne(f, name, plain))


class Plain(roles.Reward):
    """A function that returns numbers in nats, asked after each step, or bool, and then asked at the end only."""

    def __init__(self, scorer: OneByOne) -> None:
        super().__init__(scorer, 1.0, "difference", 1, scorer.name)
        self._asked = scorer

    def level(self, t: int, state: Any, rows: Rows) -> LogW:
        """(R,) nats: the numbers as they are; 0 for bool, which says nothing yet of what the sample will become."""
        levels = np.zeros(len(rows)) if self._asked.saw_bool else super().level(t, state, rows)
        return np.zeros(len(rows)) if self._asked.saw_bool else levels


def steps(every: Every, name: str) -> roles.Every:
    """`every` as a number of steps or "end". Raises ArgumentError for words and sentences."""
    if every in ("word", "sentence"):
        raise ArgumentError(
            f"'{name}' is asked every={every!r}, but an image has no {every}s; use every='token' (each step of the "
            "model), a number of steps, or 'end'"
        )
    return 1 if every == "token" else every  # type: ignore[return-value]
