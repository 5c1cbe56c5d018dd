"""What weighs a sample, in four roles that never mix.

A *reward* defines the target, on the final sample alone. A *twist* is any cheap guess on the way and changes no target.
A *constraint* forbids. A *proposal* (`models.diffusion.Guided`) shifts the draw, and its ratio is weighed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feynkac.base.contract import LogW, Potential, Rows
from feynkac.base.errors import ArgumentError
from feynkac.potentials.base import Factor
from feynkac.potentials.diffusion.protocols import Level, View
from feynkac.potentials.rewards.batches import Batched, Scorer
from feynkac.potentials.rewards.functions import check_kind, check_scale
from feynkac.potentials.rewards.texts import Kind
from feynkac.smc.checks import check_log_weights

Every: TypeAlias = int | Literal["end"]
_FOLD: dict[str, Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]] = {
    "difference": lambda past, new: new,
    "max": np.maximum,
    "sum": np.add,
}
_MEMORY = np.array((0.0, False), dtype=[("value", np.float64), ("seen", np.bool_)])
"""Of each particle: what the scores so far fold to, and whether there was any."""


class Guess(Factor):
    """A potential whose levels are guesses from the clean latents expected. A subclass gives `log_psi`."""

    every: Every = 1
    """Guess after every so many steps, between which the last level stays; "end" never guesses."""

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats, the log-weight that is foreseen; differentiable if the user's function is."""
        raise NotImplementedError

    def level(self, t: int, state: Any, rows: Rows) -> LogW:
        """(R,) nats, the guess for unfinished `rows` after step `t`, each made once."""
        if isinstance(self.every, str):
            return np.zeros(len(rows))
        memory = state.memory.array(self, _MEMORY)
        if (t + 1) % self.every == 0:
            kept, seen = self._guessed(t, state, rows), memory["seen"][rows]
            memory["value"][rows] = np.where(seen, self.fold(memory["value"][rows], kept), kept)
            memory["seen"][rows] = True
        return np.where(memory["seen"][rows], memory["value"][rows], 0.0)

    def fold(self, past: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R,) nats, the level that follows `past` when `new` is guessed."""
        return new

    def _guessed(self, t: int, state: Any, rows: Rows) -> NDArray[np.float64]:
        state.prediction  # noqa: B018  # a guided proposal makes its guesses with it
        kept = state.kept(self)
        for view in state.views(rows[np.isnan(kept[rows])]):
            with torch.no_grad():
                keep(self, view, self.log_psi(view))
        return check_log_weights(kept[rows], source=self.name, what="level", t=t, rows=rows)


def keep(potential: Potential, view: View, values: Tensor) -> Tensor:
    """`values`, which are also kept for the level of `potential`, so that weight and gradient share one guess."""
    view.state.kept(potential)[view.rows] = values.detach().cpu().numpy()
    return values


class Reward(Guess):
    """exp(scale * f(sample)) (see `reward`)."""

    def __init__(self, scorer: Scorer, scale: float, kind: Kind, every: Every, name: str) -> None:
        self._scorer, self.scale, self.every, self.name = scorer, scale, every, name
        self.kind: Kind = kind

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats: the scale times f of the estimates."""
        return keep(self, view, _nats(self.scale, self._scorer(view.estimate, view.state.t - 1, view.rows)))

    def fold(self, past: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R,) nats: the scale times the last score, the largest, or their sum."""
        if self.kind == "max" and self.scale < 0:
            return np.minimum(past, new)
        return _FOLD[self.kind](past, new)

    def final(self, state: Any, rows: Rows) -> LogW:
        """(R,) nats: the scale times f of the samples, whatever the kind."""
        with torch.no_grad():
            parts = [self._scorer(x, None, part) for part, x in state.outputs(rows)]
        return _nats(self.scale, torch.cat(parts)).cpu().numpy()


class Twist(Guess):
    """A guess without a target (see `twist`)."""

    def __init__(self, f: Callable[[Tensor, Level], Any], every: Every, name: str) -> None:
        self._f, self.every, self.name = f, every, name

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats: f of the estimates and of their level."""
        level = view.level
        scorer = Batched(lambda x: self._f(x, level), self.name)
        return keep(self, view, scorer(view.estimate, view.state.t - 1, view.rows))

    def final(self, state: Any, rows: Rows) -> LogW:
        """(R,) zeros: what was guessed is taken back."""
        return np.zeros(len(rows))


class Constraint(Factor):
    """The samples for which f is True (see `constraint`)."""

    hard = True

    def __init__(self, scorer: Scorer, every: Every, name: str) -> None:
        self._scorer, self.every, self.name = scorer, every, name

    def level(self, t: int, state: Any, rows: Rows) -> LogW:
        """(R,) nats: 0, or -inf where f is False of the estimate and was promised to stay so."""
        if isinstance(self.every, str) or (t + 1) % self.every:
            return np.zeros(len(rows))
        with torch.no_grad():
            parts = [self._scorer(view.estimate, t, view.rows) for view in state.views(rows)]
        return torch.cat(parts).cpu().numpy()

    def final(self, state: Any, rows: Rows) -> LogW:
        """(R,) nats: 0 where f is True of the sample, else -inf."""
        with torch.no_grad():
            parts = [self._scorer(x, None, part) for part, x in state.outputs(rows)]
        return torch.cat(parts).cpu().numpy()


def _nats(scale: float, scores: Tensor) -> Tensor:
    dead = scores == -math.inf  # -inf kills, also where the scale is 0 or negative
    return torch.where(dead, -math.inf, scale * torch.where(dead, 0.0, scores))


def reward(f: Callable[[Tensor], Any], scale: float = 1.0, kind: Kind = "difference", every: Every = 1) -> Reward:
    """Weight samples by exp(scale * f(x)); f maps (R, ...) decoded samples to (R,) numbers.

    That is the target for every `kind`; the kind sets what is foreseen on the way from f of the estimates x0hat
    (Singhal et al. 2025): scale * f of the last ("difference"), of the best ("max"), or of all ("sum"). `every`: ask f
    after every so many steps, or at the "end" only. -inf before the end is a promise that no continuation has weight.

    Raises ArgumentError for bad arguments; PotentialError, when used, for NaN, +inf and other shapes.
    """
    _check(f, every, "reward")
    check_kind(kind)
    check_scale(scale)
    name = _name("reward", f)
    return Reward(Batched(f, name), float(scale), kind, every, name)


def twist(f: Callable[[Tensor, Level], Any], every: Every = 1) -> Twist:
    """Foresee f(x0hat, level) nats on the way, without any part in the target.

    Any guess is allowed, random or learned or from a cheap decoder: its value is carried with each particle and taken
    back when the next replaces it. Give it with a reward that is asked at the end: `reward(r, every="end") * twist(f)`.
    """
    _check(f, every, "twist")
    return Twist(f, every, _name("twist", f))


def constraint(f: Callable[[Tensor], Any], every: Every = "end") -> Constraint:
    """Only samples for which f is True; f maps (R, ...) decoded samples to (R,) truth values.

    With a number for `every` you promise that once f is False of an estimate it stays so: such particles die early.
    """
    _check(f, every, "constraint")
    name = _name("constraint", f)
    return Constraint(Batched(f, name, truth=True), every, name)


def _check(f: Any, every: Any, what: str) -> None:
    if not callable(f):
        raise ArgumentError(f"{what}({f!r}): give a function of a batch of samples")
    if every != "end" and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise ArgumentError(f"{what}(every={every!r}): a number of steps, at least 1, or 'end'")


def _name(what: str, f: Any) -> str:
    return f"{what}({getattr(f, '__name__', None) or type(f).__name__})"
