"""The way each canvas came about: what every step drew, kept once for all who descend from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Mask, Rng, Rows
from feynkac.models.discrete.denoiser import Tokens
from feynkac.models.discrete.draws import Draws

CanvasPath: TypeAlias = tuple[tuple[tuple[int, int], ...], ...]
"""The (position, token) pairs drawn, by position: those of the noise at the start, then those of each step."""


@dataclass(frozen=True, eq=False, repr=False)
class Past:
    """The draws of the last step, and the past before it. A fork copies nothing of it."""

    before: Past | None
    parents: Rows
    """(N,) the row of `before` that each row continues."""
    rows: NDArray[np.int32]
    """(M,) the row of each draw, in rising order; a row's own draws are in the order of their positions."""
    places: NDArray[np.int32]
    tokens: NDArray[np.int32]

    @classmethod
    def begin(cls, tokens: Tokens) -> Past:
        """The past of canvases (N, L) of noise, every token of which counts as drawn."""
        return cls(None, np.arange(len(tokens)), *_list_draws(tokens, np.ones(tokens.shape, dtype=np.bool_)))

    def extend(self, parents: Rows, tokens: Tokens, moved: Mask) -> Past:
        """The past after a step that drew the `tokens` (N, L) at the `moved` positions of rows descended from ours."""
        return Past(self, parents, *_list_draws(tokens, moved))

    def trace(self, row: int) -> CanvasPath:
        """The path of `row`: all that was drawn on the way, without the steps at the end that drew nothing."""
        steps: list[tuple[tuple[int, int], ...]] = []
        past: Past | None = self
        while past is not None:
            own = slice(*np.searchsorted(past.rows, [row, row + 1]))
            step = tuple(zip(past.places[own].tolist(), past.tokens[own].tolist(), strict=True))
            if step or steps:
                steps.append(step)
            row, past = int(past.parents[row]), past.before
        return tuple(reversed(steps))


def _list_draws(tokens: Tokens, moved: Mask) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    rows, places = np.nonzero(moved)
    return rows.astype(np.int32), places.astype(np.int32), tokens[rows, places].astype(np.int32)


class ReplayedDraws(Draws):
    """The numbers of a population whose row 0 draws the given `tokens`, one after the other."""

    def __init__(self, rng: Rng, n: int, rows: Rows, tokens: Sequence[int]) -> None:
        super().__init__(rng, n, rows)
        self._left = list(reversed(tokens))

    def told(self, asked: Rows) -> Rows:
        """(A,) the next of the given tokens for row 0, -1 for the others."""
        told = super().told(asked)
        here = np.flatnonzero(self.rows[asked] == 0)
        if len(here):
            told[here] = self._left.pop()
        return told
