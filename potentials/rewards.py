"""Any function of the text as a potential: `constraint` for bool, `reward` for numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.errors import ArgumentError, PotentialError
from feynkac.potentials.base import Factor
from feynkac.potentials.boundaries import EVERY, Every, boundaries
from feynkac.potentials.scoring import Scorer, boolean, number, plain
from feynkac.smc.protocols import LogW, Rows

Kind: TypeAlias = Literal["difference", "max", "sum"]
_FOLD: dict[str, Callable[[float, float], float]] = {
    "difference": lambda past, new: new,
    "max": max,
    "sum": lambda past, new: past + new,
}
_MEMORY = np.array((0, 0.0, False), dtype=[("end", np.int64), ("value", np.float64), ("seen", np.bool_)])
"""Of each particle: the last boundary, what the scores up to there fold to, and whether there was any."""


class TextFactor(Factor):
    """A function of the text, asked at boundaries on the way and about the whole text at the end."""

    def __init__(self, scorer: Scorer, *, every: Every, kind: Kind, scale: float) -> None:
        self.name, self.scale = scorer.name, scale
        self.every: Every = every
        self.kind: Kind = kind
        self._scorer, self._fold = scorer, _FOLD[kind]

    def level(self, t: int, state: Any, rows: Rows) -> LogW:
        """(R,) nats: the folded scores of the boundaries so far, times the scale; 0 before the first boundary."""
        if self.every == "end":
            return np.zeros(len(rows))
        memory = self._memory(state)
        end, value, seen = memory["end"][rows], memory["value"][rows], memory["seen"][rows]
        asked = self._new(_texts(self, state, rows), end)
        scores = iter(self._scorer([text for _, text in asked], t, rows[[i for i, _ in asked]]))
        for (i, text), score in zip(asked, scores, strict=True):
            value[i] = self._fold(float(value[i]), float(score)) if seen[i] else score
            end[i], seen[i] = len(text), True
        memory["end"][rows], memory["value"][rows], memory["seen"][rows] = end, value, seen
        return np.where(seen, self._nats(value), 0.0)

    def final(self, state: Any, rows: Rows) -> LogW:
        """(R,) nats: the score of the whole text times the scale, whatever the kind."""
        return self._nats(self._scorer(_texts(self, state, rows), None, rows))

    def _new(self, texts: Sequence[str], end: NDArray[np.int64]) -> list[tuple[int, str]]:
        """The prefixes to score now, as (index into the rows, prefix), in the order of the text."""
        if self.every == "token":
            return list(enumerate(texts))
        found = []
        for i, text in enumerate(texts):
            ends = boundaries(text, int(end[i]), self.every)
            found += [(i, text[:to]) for to in (ends[-1:] if self.kind == "difference" else ends)]
        return found

    def _memory(self, state: Any) -> NDArray[Any]:
        if getattr(state, "memory", None) is None:
            raise PotentialError(
                f"'{self.name}' keeps running values, but {type(state).__name__} has no `memory`; "
                "give the state a feynkac.smc.memory.Memory that forks with it, or use every='end'"
            )
        return state.memory.array(self, _MEMORY)

    def _nats(self, scores: NDArray[np.float64]) -> LogW:
        dead = scores == -np.inf  # -inf kills, also where the scale is 0 or negative
        return np.where(dead, -np.inf, self.scale * np.where(dead, 0.0, scores))


class Constraint(TextFactor):
    """A function f(text) -> bool: weight 0 for the texts on which it is False."""

    hard = True


class Plain(Factor):
    """A plain function given where a potential is expected: bool constrains whole texts, a number is in nats."""

    def __init__(self, f: Callable[[str], Any]) -> None:
        self._scorer = Scorer(f, name=_name("", f), convert=plain)
        self.name = self._scorer.name
        self._on_the_way = True

    def level(self, t: int, state: Any, rows: Rows) -> LogW:
        """(R,) nats: the numbers as they are; 0 for bool, which says nothing yet of what the text will become."""
        if not self._on_the_way:
            return np.zeros(len(rows))
        scores = self._scorer(_texts(self, state, rows), t, rows)
        self._on_the_way = not self._scorer.saw_bool
        return scores if self._on_the_way else np.zeros(len(rows))

    def final(self, state: Any, rows: Rows) -> LogW:
        """(R,) nats: the numbers as they are; 0 for True and -inf for False."""
        return self._scorer(_texts(self, state, rows), None, rows)


def constraint(f: Callable[[str], bool | np.bool_], every: Every = "end") -> Constraint:
    """The texts for which f(text) is True.

    By default f is asked about whole texts only, and any f will do. With `every` "token" (after each step of the
    model), "word" or "sentence" (about the text up to the end of its last complete word or sentence) you promise
    more: that once f is False, it is False for every continuation. Particles then die early.

    Raises PotentialError, when it is used, if f raises or returns anything but a bool.
    """
    _check(f, every, "constraint")
    scorer = Scorer(f, name=_name("constraint", f), convert=boolean)
    return Constraint(scorer, every=every, kind="sum", scale=1.0)  # no boundary may be passed over


def reward(
    f: Callable[..., Any],
    scale: float = 1.0,
    kind: Kind = "difference",
    every: Every = "token",
    batch: bool = False,
) -> TextFactor:
    """Weight texts by exp(scale * f(text)), f(text) being a number (True counts 1, False 0).

    That is the target for every `kind`; the kind sets what is foreseen for unfinished texts (Singhal et al. 2025,
    "A general framework for inference-time scaling and steering of diffusion models"). With r_s the score at
    boundary s, the level is scale * r_t ("difference"), scale * max r_s ("max") or scale * sum r_s ("sum") over
    the boundaries so far. Boundaries are the steps of the model ("token"), or the ends of complete words or
    sentences, where f sees the text up to that end. Between boundaries the last level stays, and before the first
    it is 0, which has no part in the maximum. With every="end" f sees whole texts only.

    `batch`: f takes a list of texts and returns as many numbers. Each distinct text is scored once a step.
    Returning -inf kills a particle (whatever the scale): before the end, do so only if no continuation has weight.

    Raises PotentialError, when it is used, if f raises or returns NaN, +inf or no number.
    """
    _check(f, every, "reward")
    if kind not in _FOLD:
        raise ArgumentError(f"reward(kind={kind!r}): choose one of {', '.join(map(repr, _FOLD))}")
    if isinstance(scale, bool) or not isinstance(scale, (int, float, np.number)) or not math.isfinite(scale):
        raise ArgumentError(f"reward(scale={scale!r}): the scale is a finite number, in nats per unit of reward")
    scorer = Scorer(f, name=_name("reward", f), convert=number, batch=batch)
    return TextFactor(scorer, every=every, kind=kind, scale=float(scale))


def _check(f: Any, every: str, what: str) -> None:
    if not callable(f):
        raise ArgumentError(f"{what}({f!r}): give a function of the text")
    if every not in EVERY:
        raise ArgumentError(f"{what}(every={every!r}): choose one of {', '.join(map(repr, EVERY))}")


def _name(what: str, f: Any) -> str:
    inner = getattr(f, "__name__", None) or type(f).__name__
    return f"{what}({inner})" if what else inner


def _texts(potential: Factor, state: Any, rows: Rows) -> list[str]:
    if not hasattr(state, "texts"):
        raise PotentialError(
            f"'{potential.name}' weighs texts, but {type(state).__name__} has none; write a potential with "
            "level(t, state, rows) and final(state, rows) for it"
        )
    return state.texts(rows)
