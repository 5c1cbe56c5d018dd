"""Several automata at once: whether they have a text in common, and the automaton of the texts that some accept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from feynkac.base.errors import ConstraintError
from feynkac.potentials.constraints.automata.alphabet import Alphabet
from feynkac.potentials.constraints.automata.nfa import MAX_ENTRIES, MAX_STATES, CharDfa, trim

_MAX_PLACES, _MAX_LENGTH = 200_000, 5_000
"""Places and bytes of a text that are looked at: a second or two."""


def share_text(dfas: Sequence[CharDfa]) -> bool | None:
    """Whether some text is accepted by all of `dfas`; None where it would take too long to tell.

    All are walked at once, byte by byte, breadth first: a place is the state of each, and how far into a character.
    """
    bytes_apart = _class_bytes(dfas)[0]
    places = np.zeros((1, 2 * len(dfas)), dtype=np.int64)
    seen = {places.tobytes()}
    for _ in range(_MAX_LENGTH):
        if not len(places):
            return False
        ends = [(places[:, 2 * k + 1] == 0) & dfa.accept[places[:, 2 * k]] for k, dfa in enumerate(dfas)]
        if np.logical_and.reduce(ends).any():
            return True
        moved = [_move(dfas, places, int(byte)) for byte in bytes_apart]
        found = np.vstack([after[(after[:, 0::2] >= 0).all(axis=1)] for after in moved])
        fresh = [place for place in np.unique(found, axis=0) if place.tobytes() not in seen]
        seen.update(place.tobytes() for place in fresh)
        if len(seen) > _MAX_PLACES:
            return None
        places = np.array(fresh).reshape(-1, 2 * len(dfas))
    return None


def unite(dfas: Sequence[CharDfa], name: str) -> CharDfa:
    """The automaton of the texts that some of `dfas` accept; its characters are classes of bytes.

    Raises ConstraintError if it is too large.
    """
    bytes_apart, classes = _class_bytes(dfas)
    start = np.zeros((1, 2 * len(dfas)), dtype=np.int64)
    number, found = {start.tobytes(): 0}, [start]
    rows: list[np.ndarray] = []
    for places in found:
        row = np.full((len(places), len(bytes_apart)), -1, dtype=np.int32)
        fresh: list[np.ndarray] = []
        for letter, byte in enumerate(bytes_apart.tolist()):
            after = _move(dfas, places, byte)
            for i in np.flatnonzero((after[:, 0::2] >= 0).any(axis=1)).tolist():
                if (key := after[i].tobytes()) not in number:
                    number[key] = len(number)
                    fresh.append(after[i])
                row[i, letter] = number[key]
        rows.append(row)
        if len(number) > MAX_STATES or len(number) * len(bytes_apart) > MAX_ENTRIES:
            raise ConstraintError(f"{name}: the automaton of all together is too large; give fewer, or simpler ones")
        if fresh:
            found.append(np.array(fresh))
    places = np.vstack(found)
    accept = np.logical_or.reduce([_accepts(dfa, places[:, 2 * k : 2 * k + 2]) for k, dfa in enumerate(dfas)])
    letters = Alphabet((-2 - classes)[None, :].astype(np.int32), np.ones((1, len(bytes_apart)), dtype=np.bool_))
    united = trim(CharDfa(np.vstack(rows), accept, letters))
    assert united is not None  # each accepts some text
    return united


def _class_bytes(dfas: Sequence[CharDfa]) -> tuple[np.ndarray, np.ndarray]:
    """One byte of each class of those that no automaton tells apart, and the class of each of the 256."""
    steps = np.vstack([dfa.alphabet.step for dfa in dfas])
    _, first, classes = np.unique(steps, axis=1, return_index=True, return_inverse=True)
    return first, classes.reshape(-1)


def _accepts(dfa: CharDfa, places: np.ndarray) -> np.ndarray:
    return (places[:, 0] >= 0) & (places[:, 1] == 0) & dfa.accept[places[:, 0]]


def _move(dfas: Sequence[CharDfa], places: np.ndarray, byte: int) -> np.ndarray:
    """The places after one byte; -1 for the state of an automaton that is dead."""
    after = np.zeros_like(places)
    for k, dfa in enumerate(dfas):
        q, move = places[:, 2 * k], dfa.alphabet.step[places[:, 2 * k + 1], byte]
        whole = np.flatnonzero(move <= -2)
        after[:, 2 * k] = np.where(move == -1, -1, q)
        after[whole, 2 * k] = np.where(q[whole] < 0, -1, dfa.delta[q[whole], -2 - move[whole]])
        after[:, 2 * k + 1] = np.where(after[:, 2 * k] < 0, 0, np.maximum(move, 0))
    return after
