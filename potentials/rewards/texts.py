"""Functions of the text as potentials: asked at boundaries on the way, and about whole texts at the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import Remembers, Writes, require
from feynkac.base.contract import LogW, Rows, State
from feynkac.base.memory import Memory
from feynkac.potentials.base import Factor
from feynkac.potentials.rewards.boundaries import STEPS, Every, boundaries, is_due, tell_every
from feynkac.potentials.rewards.folds import FOLDS, Kind
from feynkac.potentials.rewards.scoring import Scorer

_MEMORY = np.array((0, 0.0, False), dtype=[("end", np.int64), ("value", np.float64), ("seen", np.bool_)])
"""Of each particle: the last boundary, what the scores up to there fold to, and whether there was any."""


class TextFactor(Factor):
    """A function of the text, asked at boundaries on the way and about the whole text at the end."""

    def __init__(self, scorer: Scorer, *, every: Every, kind: Kind, scale: float) -> None:
        self.name, self.scale = scorer.name, scale
        self.every: Every = every
        self.kind: Kind = kind
        self._scorer, self._fold = scorer, FOLDS[kind]
        self.define(*tell_every(every))

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats: the folded scores of the boundaries so far, times the scale; 0 before the first boundary."""
        if self.every == "end":
            return np.zeros(len(rows))
        memory = require_memory(state, self.name).array(self, _MEMORY)
        end, value, seen = memory["end"][rows], memory["value"][rows], memory["seen"][rows]
        prefixes = self._list_new(read_texts(state, self.name, rows), end) if is_due(self.every, t + 1) else []
        asked = rows[[i for i, _ in prefixes]]
        scores = self._scorer.score_texts([text for _, text in prefixes], t, asked, state)
        for (i, text), score in zip(prefixes, scores, strict=True):
            value[i] = self._fold(value[i], score) if seen[i] else score
            end[i] = len(text)
            seen[i] = True
        memory["end"][rows] = end
        memory["value"][rows] = value
        memory["seen"][rows] = seen
        return np.where(seen, scale_scores(value, self.scale), 0.0)

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats: the score of the whole text times the scale, whatever the kind."""
        scores = self._scorer.score_texts(read_texts(state, self.name, rows), None, rows, state)
        return scale_scores(scores, self.scale)

    def _list_new(self, texts: Sequence[str], end: NDArray[np.int64]) -> list[tuple[int, str]]:
        """The prefixes to score now, as (index into the rows, prefix), in the order of the text."""
        if self.every == "token" or isinstance(self.every, (int, *STEPS)):
            return list(enumerate(texts))
        found = []
        for i, text in enumerate(texts):
            ends = boundaries(text, int(end[i]), self.every)
            found += [(i, text[:to]) for to in (ends[-1:] if self.kind == "difference" else ends)]
        return found


class PlainText(Factor):
    """A function of the text that returns numbers in nats, asked after each step; or bool, then asked at the end."""

    def __init__(self, scorer: Scorer) -> None:
        self.name, self._scorer = scorer.name, scorer

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats: the numbers as they are; 0 for bool, which says nothing yet of what the text will become."""
        if self._scorer.saw_bool:
            return np.zeros(len(rows))
        scores = self._scorer.score_texts(read_texts(state, self.name, rows), t, rows, state)
        return np.zeros(len(rows)) if self._scorer.saw_bool else scores

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats: the numbers as they are; 0 for True and -inf for False."""
        return self._scorer.score_texts(read_texts(state, self.name, rows), None, rows, state)


def read_texts(state: State, name: str, rows: Rows) -> list[str]:
    """(R,) the texts of `rows`, for the potential `name`."""
    return require(state, Writes, f"'{name}' is a function of texts, and {type(state).__name__} has none").texts(rows)


def require_memory(state: State, name: str) -> Memory:
    """Where a state keeps running values. Raises PotentialError, by the `name` of who asks, if it keeps none."""
    message = (
        f"'{name}' keeps running values, but {type(state).__name__} has no `memory`; "
        "give the state a feynkac.base.memory.Memory that forks with it, or use every='end'"
    )
    return require(state, Remembers, message).memory


def scale_scores(scores: NDArray[np.float64], scale: float) -> LogW:
    """(R,) nats: the scores times the scale; -inf kills, also where the scale is 0 or negative."""
    dead = scores == -np.inf
    return np.where(dead, -np.inf, scale * np.where(dead, 0.0, scores))
