"""Functions of the decoded sample as potentials: asked about estimates on the way, and about whole samples at the end.

A sample is a tensor, such as an image; on the way its place is taken by the clean sample that the network expects.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feynkac.base.capabilities import Decodes, TellsCopies, has, require
from feynkac.base.contract import LogW, Potential, Rows, State
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.sampling import Estimates, View
from feynkac.potentials.base import Factor
from feynkac.potentials.rewards.boundaries import STEPS, Every, is_due
from feynkac.potentials.rewards.folds import FOLDS, Kind
from feynkac.potentials.rewards.scoring import Scorer
from feynkac.smc.checks import check_log_weights

Steps: TypeAlias = int | range | tuple[int, ...] | Literal["end"]
"""Ask after every so many steps of the model, after these numbers of steps, or about finished samples only."""
_MEMORY = np.array((0.0, False), dtype=[("value", np.float64), ("seen", np.bool_)])
"""Of each particle: what the scores so far fold to, and whether there was any."""


class Guess(Factor):
    """A potential whose levels are guesses from the clean samples expected. A subclass gives `log_psi` and `final`."""

    every: Steps = 1
    """Guess after every so many steps, between which the last level stays; "end" never guesses."""

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats, the log-weight that is foreseen; differentiable if the user's function is."""
        raise NotImplementedError

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats, the guess for unfinished `rows` after step `t`, each made once."""
        if isinstance(self.every, str):
            return np.zeros(len(rows))
        latents = require_estimates(state, self.name)
        memory = latents.memory.array(self, _MEMORY)
        if is_due(self.every, t + 1):
            new, values, seen = self._guess(t, latents, rows), memory["value"], memory["seen"]
            folded = np.where(seen[rows], self.fold(values[rows], new), new)
            values[rows], seen[rows] = folded, True
            return folded
        return np.where(memory["seen"][rows], memory["value"][rows], 0.0)

    def fold(self, past: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R,) nats, the level that follows `past` when `new` is guessed."""
        return new

    def _guess(self, t: int, state: Estimates, rows: Rows) -> NDArray[np.float64]:
        state.look()  # a guided proposal guesses with it, so that nothing is left to guess here
        known = state.recall(self)
        for view in state.views(rows[np.isnan(known[rows])]):
            with torch.no_grad():
                store(self, view, self.log_psi(view))
        return check_log_weights(known[rows], source=self.name, what="level", t=t, rows=rows)


def store(potential: Potential, view: View, values: Tensor) -> Tensor:
    """`values` (R,), stored for the level of `potential`, so that weight and gradient share one guess."""
    view.state.recall(potential)[view.rows] = values.detach().cpu().numpy()
    return values


class DecodedReward(Guess):
    """exp(scale * f(sample)) (see `feynkac.potentials.reward`)."""

    def __init__(self, scorer: Scorer, scale: float, kind: Kind, every: Steps) -> None:
        self.name, self.scale, self.every = scorer.name, scale, every
        self.kind: Kind = kind
        self._scorer = scorer

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats: the scale times f of the estimates."""
        scores = self._scorer.score_tensors(view.estimate, view.state.t - 1, view.rows, view.state)
        return store(self, view, _scale(self.scale, scores))

    def fold(self, past: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R,) nats: the scale times the last score, the largest, or their sum."""
        if self.kind == "max" and self.scale < 0:  # the largest score weighs least
            return np.minimum(past, new)
        return FOLDS[self.kind](past, new)

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats: the scale times f of the samples, whatever the kind."""
        return _scale(self.scale, _score_outputs(self._scorer, state, rows)).cpu().numpy()


class DecodedTwist(DecodedReward):
    """scale * f(estimate) on the way, and nothing at the end (see `feynkac.potentials.twist`)."""

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) zeros: what was guessed is taken back."""
        return np.zeros(len(rows))


class DecodedPlain(DecodedReward):
    """A function that returns numbers in nats, asked after each step, or bool, and then asked at the end only."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__(scorer, 1.0, "difference", 1)

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats: the numbers as they are; 0 for bool, which says nothing yet of what the sample will become."""
        levels = np.zeros(len(rows)) if self._scorer.saw_bool else super().level(t, state, rows)
        return np.zeros(len(rows)) if self._scorer.saw_bool else levels


class DecodedConstraint(Factor):
    """The samples for which f is True (see `feynkac.potentials.constraint`)."""

    hard = True

    def __init__(self, scorer: Scorer, every: Steps) -> None:
        self.name, self.every, self._scorer = scorer.name, every, scorer

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats: 0, or -inf where f is False of the estimate and was promised to stay so."""
        if not is_due(self.every, t + 1):
            return np.zeros(len(rows))
        views = require_estimates(state, self.name).views(rows)
        with torch.no_grad():
            parts = [self._scorer.score_tensors(view.estimate, t, view.rows, state) for view in views]
        return torch.cat(parts).cpu().numpy()

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats: 0 where f is True of the sample, else -inf."""
        return _score_outputs(self._scorer, state, rows).cpu().numpy()


def count_steps(every: Every, name: str) -> Steps:
    """`every` as a number of steps or "end". Raises ArgumentError for what are boundaries of texts."""
    if every == "token":
        return 1
    if every == "end":
        return "end"
    if isinstance(every, (int, *STEPS)):
        return every
    lacks = f"{every}s" if every in ("word", "sentence") else "text to be cut"
    raise ArgumentError(
        f"'{name}' is asked every={quote(every)}, but an image has no {lacks}; use every='token' (each step of the "
        "model), a number of steps, several such as range(20, 81, 20), or 'end'"
    )


def require_estimates(state: State, name: str) -> Estimates:
    """`state`, which estimates its clean samples. Raises PotentialError, by the `name` of who asks, if it does not."""
    return require(
        state,
        Estimates,
        f"'{name}' guesses from the clean sample expected, which {type(state).__name__} does not estimate; give the "
        "state what feynkac.base.sampling.Estimates asks for, or use every='end'",
    )


def require_outputs(state: State, name: str) -> Decodes:
    """`state`, whose samples are decoded. Raises PotentialError, by the `name` of who asks, if they are not."""
    return require(
        state, Decodes, f"'{name}' is a function of decoded samples, and {type(state).__name__} has no outputs(rows)"
    )


def _score_outputs(scorer: Scorer, state: State, rows: Rows) -> Tensor:
    """(R,) float64 scores of finished `rows`, each sample asked about once."""
    whole = require_outputs(state, scorer.name)
    originals = state.find_originals(rows) if has(state, TellsCopies) else rows
    first, which = np.unique(originals, return_inverse=True)
    with torch.no_grad():
        scores = torch.cat([scorer.score_tensors(x, None, part, state) for part, x in whole.outputs(first)])
    return scores[torch.as_tensor(which, device=scores.device)]


def _scale(scale: float, scores: Tensor) -> Tensor:
    dead = scores == -math.inf  # -inf kills, also where the scale is 0 or negative
    return torch.where(dead, -math.inf, scale * torch.where(dead, 0.0, scores))
