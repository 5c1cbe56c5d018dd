"""Columns of automaton states: what the numbers of states are is an automaton's own affair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.masks import mask_within
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.language.proposals.columns import Columns

VOCABULARY = Vocabulary((b"a", b"b", b""), (2,))


class Moved:
    """A constraint whose states stand `by` higher, as those of an automaton that packs much into one number."""

    name = "moved"

    def __init__(self, inner: Any, by: int) -> None:
        self._inner, self._by = inner.automaton(VOCABULARY), by
        self.start = self._inner.start + by

    def automaton(self, vocabulary: Vocabulary) -> Moved:
        return self

    def masks(self, states: Any) -> Any:
        return self._inner.masks(self._lower(states))

    def masks_within(self, states: Any, left: Any) -> Any:
        return mask_within(self._inner, self._lower(states), left)

    def advance(self, states: Any, tokens: Any) -> Any:
        after = self._inner.advance(self._lower(states), tokens)
        return np.where(after < 0, -1, after + self._by)

    def accepts(self, states: Any) -> Any:
        return self._inner.accepts(self._lower(states))

    def _lower(self, states: Any) -> Any:
        assert ((states == -1) | (states >= self._by)).all()
        return np.where(states < 0, -1, states - self._by)


@pytest.mark.parametrize("by", [1 << 20, (1 << 39) - 2, 1 << 62])
def test_numbers_of_states_may_be_as_large_as_integers_are(by: int) -> None:
    plain = fk.regex("a{2,4}b")
    columns = [Columns(((each,),), VOCABULARY) for each in (plain, Moved(plain, by))]
    group, left = np.zeros(4, np.int64), np.array([5, 1, 3, 5])
    states = [np.repeat(each.start, 4, axis=0) for each in columns]
    for tokens in ([0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]):
        wanted, found = (each.mask(some, left, group) for each, some in zip(columns, states, strict=True))
        assert np.array_equal(wanted, found)
        states = [each.advance(some, np.array(tokens), group) for each, some in zip(columns, states, strict=True)]
