"""Contexts that stay alive while others are extended, for populations that are gone back to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import ReferenceType, ref

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Mask, Rows
from feynkac.models.language.protocols import Contexts

if TYPE_CHECKING:
    from torch import Tensor

GONE_BACK = -1
"""As the parent of a context: none of the frontier before."""


class Kept:
    """The kept populations of a run. Their numbers of contexts follow the store, as long as somebody holds them."""

    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts
        self._populations: list[tuple[ReferenceType[NDArray[np.int64]], Mask]] = []
        self._n_frontier: int | None = None
        """Contexts of the last frontier; behind them in the store stand those that are kept. At first all are of it."""

    def save(self) -> int | None:
        """What of it is not in the store, nor with those who hold populations."""
        return self._n_frontier

    @classmethod
    def load(cls, contexts: Contexts, saved: int | None) -> Kept:
        """What `save` gave; whoever held a population is to keep it again."""
        found = cls(contexts)
        found._n_frontier = saved
        return found

    def add(self, context: NDArray[np.int64], running: Mask) -> None:
        """Keep the contexts (N,) of the `running` rows of a population; the array is rewritten in place."""
        self._populations.append((ref(context), running.copy()))

    def extend(self, parents: Rows, tokens: NDArray[np.int64]) -> tuple[Tensor, Rows]:
        """As `Contexts.extend`, and whatever is kept stays.

        Returns the (U, V) logits, and the (U,) parents as numbers of the frontier before; `GONE_BACK` for others.
        """
        numbers = self._list_numbers()
        stay = np.full(len(numbers), -1)
        logits = self._contexts.extend(np.concatenate([parents, numbers]), np.concatenate([tokens, stay]))
        self._renumber(numbers, len(parents))
        before, self._n_frontier = self._n_frontier, len(parents)
        return logits, parents if before is None else np.where(parents < before, parents, GONE_BACK)

    def append(self, parents: Rows, tokens: Sequence[Sequence[int]]) -> Tensor:
        """As `Contexts.append`, with the logits behind every token, and whatever is kept stays.

        Nothing is drawn there: to the next frontier its contexts are of none that was before.
        """
        numbers = self._list_numbers()
        lists = [*tokens, *([()] * len(numbers))]
        logits = self._contexts.append(np.concatenate([parents, numbers]), lists, every=True)
        self._renumber(numbers, len(parents))
        self._n_frontier = 0
        return logits

    def _list_numbers(self) -> NDArray[np.int64]:
        """The contexts that somebody holds, each once."""
        self._populations = [each for each in self._populations if each[0]() is not None]
        return np.unique(np.concatenate([np.empty(0, np.int64), *(of[running] for of, running in self._held)]))

    def _renumber(self, numbers: NDArray[np.int64], n_before: int) -> None:
        """Let those who hold the contexts `numbers` know that these stand behind `n_before` others now."""
        for context, running in self._held:
            context[running] = n_before + np.searchsorted(numbers, context[running])

    @property
    def _held(self) -> list[tuple[NDArray[np.int64], Mask]]:
        return [(context, running) for weak, running in self._populations if (context := weak()) is not None]
