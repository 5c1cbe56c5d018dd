"""The constraints of all problems of a batch: one column of automaton states for each constraint that a problem has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import ChecksTokens, has
from feynkac.base.contract import Mask
from feynkac.base.masks import TokenAutomaton, TokenConstraint, TokenMask, mask_within, words
from feynkac.base.vocabulary import Vocabulary

FAR = 1 << 24
"""Of more tokens to come no state need know: a state and what is left of the limit make one number."""
_LARGE = 1 << 38
"""A state from which on the number of both would not fit: what states mean is an automaton's own affair."""
Constraints = tuple[tuple[TokenConstraint, ...], ...]
"""Those of each of G problems."""


class Columns:
    """Column c of a text is the state of the c-th constraint of its problem; what is right of the last one is 0.

    Shapes: U texts or histories, each of them with its problem, `group`; C columns.
    """

    def __init__(self, constraints: Constraints, vocabulary: Vocabulary) -> None:
        self._n_words = words(vocabulary.size)
        width = max(map(len, constraints), default=0)
        self.start = np.zeros((len(constraints), width), np.int64)
        """(G, C) the states of an empty text."""
        self._parts: list[tuple[TokenAutomaton, int, Mask]] = []
        """Each automaton with its column, and in which problems it stands there."""
        known: dict[tuple[int, int], Mask] = {}
        for g, some in enumerate(constraints):
            for c, constraint in enumerate(some):
                if (id(constraint), c) not in known:
                    known[id(constraint), c] = np.zeros(len(constraints), np.bool_)
                    self._parts.append((constraint.automaton(vocabulary), c, known[id(constraint), c]))
                known[id(constraint), c][g] = True
        for automaton, c, members in self._parts:
            self.start[members, c] = automaton.start

        self.lazy = [(each, c, members) for each, c, members in self._parts if has(each, ChecksTokens)]
        """Those of the automata that check tokens."""

    def mask(
        self, states: NDArray[np.int64], left: NDArray[np.int64], group: NDArray[np.int64], lazily: bool = False
    ) -> TokenMask:
        """(U, ceil(V / 32)) the tokens that may follow in `states` (U, C), with `left` (U,) tokens to come at most.

        `lazily`: of automata that check tokens, the candidates only.
        """
        mask = np.full((len(left), self._n_words), np.uint32(0xFFFFFFFF))
        for automaton, c, members in self._parts:
            if members.all():
                mask &= _mask_distinct(automaton, states[:, c], left, lazily)
            elif len(here := np.flatnonzero(members[group])):
                mask[here] &= _mask_distinct(automaton, states[here, c], left[here], lazily)
        return mask

    def check(self, states: NDArray[np.int64], tokens: NDArray[np.int64], group: NDArray[np.int64]) -> Mask:
        """(U,) whether the lazy automata accept a token each; one that is rejected is asked about no more."""
        if len(self.lazy) == 1 and self.lazy[0][2].all():  # most often so, and asked once for each rejected token
            automaton, c, _ = self.lazy[0]
            return automaton.check(states[:, c].copy(), tokens)
        accepted = np.ones(len(states), np.bool_)
        for automaton, c, members in self.lazy:
            here = np.flatnonzero(members[group] & accepted)
            if len(here):
                accepted[here] = automaton.check(states[here, c], tokens[here])
        return accepted

    def count_draws(self, group: NDArray[np.int64]) -> NDArray[np.int64]:
        """(U,) how many draws of a token are to be accepted, by the most demanding lazy automaton of its problem."""
        draws = np.full(len(self.start), 2)
        for automaton, _, members in self.lazy:
            draws[members] = np.maximum(draws[members], automaton.draws)
        return draws[group]

    def advance(
        self, states: NDArray[np.int64], tokens: NDArray[np.int64], group: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """(U, C) the states after one more token each."""
        after = states.copy()
        for automaton, c, members in self._parts:
            here = np.flatnonzero(members[group])
            after[here, c] = automaton.advance(states[here, c], tokens[here])
        return after

    def accepts(self, states: NDArray[np.int64], group: NDArray[np.int64]) -> Mask:
        """(U,) whether texts that end in `states` (U, C) meet all constraints of their problem."""
        accepted = np.ones(len(states), np.bool_)
        for automaton, c, members in self._parts:
            here = np.flatnonzero(members[group])
            accepted[here] &= automaton.accepts(states[here, c])
        return accepted

    def accepts_tokens(self, tokens: Sequence[int], g: int) -> bool:
        """Whether a text of these tokens meets all constraints of problem `g`."""
        states, group = self.start[[g]], np.array([g])
        for token in tokens:
            states = self.advance(states, np.array([token]), group)
            if (states < 0).any():
                return False
        return bool(self.accepts(states, group)[0])


def _mask_distinct(
    automaton: TokenAutomaton, states: NDArray[np.int64], left: NDArray[np.int64], lazily: bool
) -> TokenMask:
    """The mask of each state, asked once for each distinct one."""
    if lazily and has(automaton, ChecksTokens):
        return automaton.candidates(states)
    if states.max(initial=0) >= _LARGE:
        (states, left), inverse = np.unique(np.stack([states, left]), axis=1, return_inverse=True)
        return mask_within(automaton, states, left)[inverse.reshape(-1)]
    pairs, inverse = np.unique(states * FAR + left, return_inverse=True)
    return mask_within(automaton, *np.divmod(pairs, FAR))[inverse]


def find_columns(constraints: Constraints, constraint: TokenConstraint) -> NDArray[np.int64]:
    """(G,) the column of a constraint in each problem; -1 where it has it not."""
    places = [[c for c, each in enumerate(some) if each is constraint] for some in constraints]
    return np.array([some[0] if some else -1 for some in places], np.int64)
