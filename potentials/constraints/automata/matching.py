"""Phrases in a text: one automaton that looks for all of them at once (Aho and Corasick 1975), byte by byte.

Where theirs falls back to the root, ours falls back to the automaton of UTF-8, so that only whole characters pass. Its
few states come first, and 0, between two characters, is the root.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ConstraintError
from feynkac.potentials.constraints.automata.alphabet import Alphabet, build_alphabet
from feynkac.potentials.constraints.automata.characters import ANY_CHAR, list_variants
from feynkac.potentials.constraints.automata.nfa import MAX_ENTRIES, CharDfa, trim

_ADVICE = "multiply several of them, phrases(require=a) * phrases(require=b), or ask for fewer"


def build_phrases(ban: Sequence[str], require: Sequence[str], ignore_case: bool, name: str) -> CharDfa:
    """The automaton of the texts without `ban` and with all of `require`. Raises ConstraintError.

    Its characters are classes of bytes.
    """
    base = _build_utf8()
    trie = _PhraseTrie(len(base), ignore_case)
    banned, required = [trie.add(phrase) for phrase in ban], [trie.add(phrase) for phrase in require]
    classes = _group_bytes(base, trie.moves)
    n, n_classes = trie.size, int(classes.max()) + 1
    if (n << len(require)) * n_classes > MAX_ENTRIES:
        raise ConstraintError(f"{name}: its automaton is too large; {_ADVICE}")
    delta, fail = _link(base, classes, n_classes, trie)
    bad, found = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.int64)
    bad[banned] = True
    np.bitwise_or.at(found, required, 1 << np.arange(len(required)))
    for states in trie.levels():  # what ends in a state, ends in all that fall back to it
        bad[states] |= bad[fail[states]]
        found[states] |= found[fail[states]]
    between = np.ones(n, dtype=np.bool_)
    between[1 : len(base)] = False
    between[trie.within] = False
    return _collect(delta, bad, found, between, len(require), _make_letters(classes), name)


def _collect(
    delta: NDArray[np.int32], bad: NDArray[np.bool_], found: NDArray[np.int64], between: NDArray[np.bool_],
    n_required: int, letters: Alphabet, name: str,
) -> CharDfa:  # fmt: skip
    """The automaton that also remembers which required phrases have come: state `n * (their bits) + q`."""
    n, bits = len(delta), np.arange(1 << n_required)
    alive = (delta >= 0) & ~bad[delta]
    after = n * (bits[:, None, None] | found[delta]) + delta
    whole = np.where(alive, after, -1).astype(np.int32).reshape(-1, delta.shape[1])
    accept = ((bits[:, None] == (1 << n_required) - 1) & between).reshape(-1)
    dfa = trim(CharDfa(whole, accept, letters))
    if dfa is None:
        raise ConstraintError(f"{name}: no text at all meets it, for what is required holds what is banned; loosen it")
    return dfa


class _PhraseTrie:
    """The trie of phrases, over bytes: the spellings of one character, if case does not count, lead to one state."""

    def __init__(self, n_base: int, ignore_case: bool) -> None:
        self.size, self._n_base, self._ignore_case = n_base, n_base, ignore_case
        self.moves: dict[tuple[int, int], int] = {}
        """(state, byte) to the next state; the states of UTF-8 count from 0, and only 0 has moves here."""
        self.within: list[int] = []
        """The states inside of a character."""
        self._rank: dict[int, tuple[int, int]] = {}
        self._ends: dict[tuple[int, str], int] = {}

    def add(self, phrase: str) -> int:
        """Add a phrase; the state in which it has come."""
        state = 0
        for depth, char in enumerate(phrase):
            state = self._add_char(state, depth, char)
        return state

    def levels(self) -> Iterable[NDArray[np.int64]]:
        """The states in groups, each after those that they may fall back to: by characters, then by bytes within."""
        rank = np.array([self._rank[state] for state in range(self._n_base, self.size)]).reshape(-1, 2)
        order = np.lexsort((rank[:, 1], rank[:, 0]))
        cuts = np.flatnonzero(np.diff(rank[order], axis=0).any(axis=1)) + 1
        return [group + self._n_base for group in np.split(order, cuts)]

    def _add_char(self, state: int, depth: int, char: str) -> int:
        variants = list_variants(char) if self._ignore_case else (char,)
        key = (state, min(variants))
        if key not in self._ends:
            self._ends[key] = self._add_state((depth + 1, 0))
            for variant in variants:
                self._spell(state, depth, variant.encode(), self._ends[key])
        return self._ends[key]

    def _spell(self, state: int, depth: int, spelt: bytes, end: int) -> None:
        for k, byte in enumerate(spelt[:-1]):
            if (state, byte) not in self.moves:
                self.moves[state, byte] = self._add_state((depth, k + 1))
                self.within.append(self.moves[state, byte])
            state = self.moves[state, byte]
        self.moves[state, spelt[-1]] = end

    def _add_state(self, rank: tuple[int, int]) -> int:
        self._rank[self.size] = rank
        self.size += 1
        return self.size - 1


def _link(
    base: NDArray[np.int32], classes: NDArray[np.int64], n_classes: int, trie: _PhraseTrie
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(Q, C) the moves of all states, and (Q,) the state of the longest end of its text that each falls back to."""
    delta = np.full((trie.size, n_classes), -1, dtype=np.int32)
    fail = np.zeros(trie.size, dtype=np.int64)
    used = classes >= 0
    delta[: len(base), classes[used]] = base[:, used]
    by_origin: dict[int, list[tuple[int, int]]] = {}
    for (state, byte), after in trie.moves.items():
        by_origin.setdefault(state, []).append((int(classes[byte]), after))

    def branch(states: Iterable[int]) -> None:
        """The moves of some states, whose rows are those of what they fall back to so far."""
        for state in states:
            for letter, after in by_origin.get(state, ()):
                fail[after], delta[state, letter] = delta[state, letter], after

    branch([0])
    for states in trie.levels():
        delta[states] = delta[fail[states]]
        branch(states.tolist())
    return delta, fail


def _build_utf8() -> NDArray[np.int32]:
    """(U, 256) the automaton of UTF-8: 0 between two characters, -1 where there is none."""
    step = build_alphabet([ANY_CHAR])[0].step
    return np.where(step <= -2, 0, step).astype(np.int32)


def _group_bytes(base: NDArray[np.int32], moves: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """(256,) the class of each byte: those in no phrase go by what they are in UTF-8; -1 if they never come."""
    used = np.full(256, -1, dtype=np.int32)
    bytes_used = sorted({byte for _, byte in moves})
    used[bytes_used] = bytes_used
    classes = np.unique(np.vstack([base, used]), axis=1, return_inverse=True)[1].reshape(-1)
    comes = (base >= 0).any(axis=0)
    classes[comes] = np.unique(classes[comes], return_inverse=True)[1]
    classes[~comes] = -1
    return classes


def _make_letters(classes: NDArray[np.int64]) -> Alphabet:
    step = np.where(classes < 0, -1, -2 - classes)[None, :].astype(np.int32)
    return Alphabet(step, np.ones((1, int(classes.max()) + 1), dtype=np.bool_))
