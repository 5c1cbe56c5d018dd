"""Guesses of any kind on the way, without a part in the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from feynkac.base.contract import LogW, Rows, State
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.sampling import NoiseLevel, View
from feynkac.potentials.rewards.boundaries import Every, read_every
from feynkac.potentials.rewards.decoded import Guess, Steps, count_steps, store
from feynkac.potentials.rewards.scoring import Scorer


class Twist(Guess):
    """A guess without a target (see `twist`)."""

    def __init__(self, f: Callable[[Tensor, NoiseLevel], Any], every: Steps, name: str) -> None:
        self._f, self.every, self.name = f, every, name

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats: f of the estimates and of their noise level."""
        noise_level = view.noise_level
        scorer = Scorer(lambda x: self._f(x, noise_level), self.name, batch=True)
        return store(self, view, scorer.score_tensors(view.estimate, view.state.t - 1, view.rows))

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) zeros: what was guessed is taken back."""
        return np.zeros(len(rows))


def twist(f: Callable[[Tensor, NoiseLevel], Any], every: Every = 1) -> Twist:
    """Foresee f(x0hat, noise_level) nats on the way, without any part in the target.

    f takes all estimates (R, ...) at once and returns (R,) numbers. `every`: guess after every so many steps, or
    after these, such as range(20, 81, 20). Any guess is allowed, random or learned or from a cheap decoder: its value
    is carried with each particle and taken back when the next replaces it. Give it with a reward that is asked at the
    end: `reward(r, every="end") * twist(f)`.

    Raises ArgumentError for bad arguments; PotentialError, when used, for NaN, +inf and other shapes.
    """
    if not callable(f):
        raise ArgumentError(f"twist({quote(f)}): give a function of a batch of samples and their noise level")
    name = f"twist({getattr(f, '__name__', None) or type(f).__name__})"
    return Twist(f, count_steps(read_every(every, "twist"), name), name)
