"""The probability that a Markov chain of tokens writes a text that a finite automaton accepts."""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Mask
from feynkac.base.errors import ConstraintError
from feynkac.base.masks import States

if TYPE_CHECKING:
    from feynkac.base.masks import TokenAutomaton
    from feynkac.potentials.twists.chains import TokenChain

Ints = NDArray[np.int64]
_IMPOSSIBLE = -690.0
"""Nats of psi = 0: a guess kills nothing."""
_FLOOR, _SHARE = -20.0, -10.0
"""Nats of the least level, beside that of the whole task, and of the least guide, beside the level before it."""
_MOST_STATES = 2000
_MOST_MOVES = 40_000_000  # numbers in the table of moves: 160 MB
_MOST_PSI = 1 << 24  # values of psi that are kept: 134 MB
_ROWS = 128  # guides kept: 25 MB for a vocabulary of 49,152 tokens


class Places(NamedTuple):
    """Where R texts stand."""

    states: States
    """(R,) of the automaton; -1 for none."""
    last: Ints
    """(R,) their last tokens; any, of an empty text."""
    left: Ints
    """(R,) the tokens to come at most."""
    limit: Ints
    """(R,) the tokens they may have in all."""
    end: Mask
    """(R,) whether they must end themselves where they reach it."""


class Guide(NamedTuple):
    """The worth of every next token, of R texts: `rows[which]`, and no less than `least`.

    So no token is drawn much more rarely than the model has it, whatever the chain says (a defensive mixture).
    """

    rows: NDArray[np.float32]
    """(D, V) nats: log psi behind each token."""
    which: Ints
    """(R,)"""
    least: NDArray[np.float32]
    """(R,) nats, not far below the level before the token."""


class Acceptance:
    """log psi(state, class of the last token, tokens left): S states, K classes; computed as far as it is asked for.

    Where texts `end` that fill their limit, the chain's probability that they do counts; others are cut. Any number of
    threads may ask. Raises ConstraintError for an automaton of too many states.
    """

    def __init__(self, chain: TokenChain, automaton: TokenAutomaton, name: str) -> None:
        self._automaton, self._classes, self._n_classes = automaton, chain.classes, len(chain)
        self._eos = np.array(chain.vocabulary.eos, np.int64)
        self._tokens = np.arange(chain.vocabulary.size)
        self._number: dict[int, int] = {automaton.start: 0}
        self._moves: list[tuple[Ints, NDArray[np.float32]]] = []
        self._follow(np.ascontiguousarray(chain.law.T), name)
        states = np.array(list(self._number), np.int64)
        self._order = np.argsort(states)
        self._sorted = states[self._order]
        accepts = automaton.accepts(states).astype(float)
        self._ends = accepts[:, None] * chain.law[:, self._eos].sum(axis=1, dtype=float)
        cut = np.repeat(accepts[:, None], len(chain), axis=1)
        self._psi = {True: [self._ends], False: [cut]}
        self._furthest = max(_MOST_PSI // cut.size, 1)
        self._rows: dict[tuple[int, int, bool], NDArray[np.float32]] = {}
        self._lock = RLock()

    def level(self, places: Places) -> NDArray[np.float64]:
        """(R,) nats: log psi; of those that are given up, e^20 less than of an empty text."""
        found = np.empty(len(places.states))
        at = np.array([self._number.get(state, -1) for state in places.states.tolist()], np.int64)
        for n, limit, end in {(int(n), int(limit), bool(end)) for _, _, n, limit, end in zip(*places, strict=True)}:
            here = np.flatnonzero((places.left == n) & (places.limit == limit) & (places.end == end))
            psi = np.where(at[here] < 0, 0.0, self._find_layer(n, end)[at[here], self._classes[places.last[here]]])
            found[here] = np.maximum(_take_log(psi), _take_log(self._find_layer(limit, end)[0].max()) + _FLOOR)
        return found

    def guide(self, places: Places) -> Guide:
        """What each next token is worth, and each end of text, where texts stand."""
        kinds = np.stack([places.states, places.left, places.end])
        distinct, which = np.unique(kinds, axis=1, return_inverse=True)
        rows = [self._find_row(state, left, bool(end)) for state, left, end in distinct.T.tolist()]
        return Guide(np.stack(rows), which.reshape(-1), (self.level(places) + _SHARE).astype(np.float32))

    def _find_row(self, state: int, left: int, end: bool) -> NDArray[np.float32]:
        """(V,) log psi behind each token; `left` counts that token."""
        key = state, left, end
        with self._lock:
            if key not in self._rows:
                if len(self._rows) >= _ROWS:
                    self._rows.clear()
                self._rows[key] = self._make_row(state, left, end)
            return self._rows[key]

    def _make_row(self, state: int, left: int, end: bool) -> NDArray[np.float32]:
        row = np.full(len(self._tokens), _IMPOSSIBLE, np.float32)
        if state not in self._number:
            return row
        if left:
            after = self._automaton.advance(np.full(len(self._tokens), state), self._tokens)
            tokens = np.flatnonzero(after >= 0)
            numbers = self._order[np.searchsorted(self._sorted, after[tokens])]
            row[tokens] = _take_log(self._find_layer(left - 1, end)[numbers, self._classes[tokens]])
        if self._automaton.accepts(np.array([state]))[0]:
            row[self._eos] = 0.0
        return row

    def _advance(self, state: int) -> tuple[Ints, Ints]:
        """The tokens that may follow a state, and the numbers of the states that they lead to."""
        after = self._automaton.advance(np.full(len(self._tokens), state), self._tokens)
        tokens = np.flatnonzero(after >= 0)
        distinct, where = np.unique(after[tokens], return_inverse=True)
        return tokens, np.array([self._intern(each) for each in distinct.tolist()], np.int64)[where]

    def _intern(self, state: int) -> int:
        return self._number.setdefault(state, len(self._number))

    def _follow(self, law: NDArray[np.float32], name: str) -> None:
        """Find all states, and for each the pairs (state, class) behind it with their probabilities."""
        done, moves = 0, 0
        while done < len(self._number):
            tokens, after = self._advance(list(self._number)[done])
            pairs, slots = np.unique(after * self._n_classes + self._classes[tokens], return_inverse=True)
            flow = np.zeros((len(pairs), self._n_classes), np.float32)
            _add_rows(law, tokens, slots, flow)
            self._moves.append((pairs, flow))
            done, moves = done + 1, moves + flow.size
            if len(self._number) > _MOST_STATES or moves > _MOST_MOVES:
                raise ConstraintError(
                    f"{name}: an automaton of more than {done} states over tokens is too large for a Markov twist; "
                    "give a simpler pattern that its texts match, or a chain of fewer classes"
                )

    def _find_layer(self, left: int, end: bool) -> NDArray[np.float64]:
        """(S, K) psi with `left` tokens to come, or as many as there is room for."""
        left = min(left, self._furthest)
        with self._lock:
            layers = self._psi[end]
            while len(layers) <= left:
                before = layers[-1].reshape(-1)
                layers.append(self._ends + np.array([before[pairs] @ flow for pairs, flow in self._moves]))
            return layers[left]


def _take_log(psi: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.maximum(psi, np.exp(_IMPOSSIBLE)))


@numba.njit(cache=True, nogil=True)
def _add_rows(law, tokens, slots, flow):
    """Add the row of each token to that of its slot."""
    for i in range(len(tokens)):
        for k in range(law.shape[1]):
            flow[slots[i], k] += law[tokens[i], k]
