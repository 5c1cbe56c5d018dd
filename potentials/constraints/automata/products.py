"""Several automata at once: whether they have a text in common, and the automaton of the texts that some accept.

All are walked together, byte by byte. A place is the state q * U + u of each: state q of the automaton, and how far
into a character; -1 where it is dead.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ConstraintError
from feynkac.potentials.constraints.automata.alphabet import NEVER, Alphabet
from feynkac.potentials.constraints.automata.nfa import MAX_ENTRIES, MAX_STATES, CharDfa, trim

MAX_PLACES = 200_000
"""Places that are looked at: a second or two."""
_AT_ONCE, _ROUND = 64, 16
"""Places that are looked at together; as how many more it counts to look, be they fewer."""
_BYTES = np.ones(256, dtype=np.bool_)


def share_text(dfas: Sequence[CharDfa], most: int = MAX_PLACES) -> bool | None:
    """Whether some text is accepted by all of `dfas`; None where it takes more than `most` places to tell.

    Those come first from where it is least far to acceptance, in the automaton for which it is the farthest.
    """
    from feynkac.potentials.constraints.automata.distances import ByteDistances  # imports numba, which takes a while

    sizes = [len(dfa.delta) * len(dfa.alphabet.step) for dfa in dfas]
    if math.prod(sizes) >= 1 << 62:
        return None
    measures = [ByteDistances(dfa, _BYTES) for dfa in dfas]
    bytes_apart = _class_bytes(dfas)[0]
    todo, seen, work = [(0, 0)], {0}, 0
    if all(dfa.accept[0] for dfa in dfas):
        return True
    while todo:
        keys = np.array([heapq.heappop(todo)[1] for _ in range(min(_AT_ONCE, len(todo)))], dtype=np.int64)
        after = _move(dfas, np.stack(np.unravel_index(keys, sizes), axis=1), bytes_apart)
        alive = after[(after >= 0).all(axis=2)]
        fresh = np.array(
            [key for key in np.unique(np.ravel_multi_index(tuple(alive.T), sizes)).tolist() if key not in seen],
            np.int64,
        )
        places = np.unravel_index(fresh, sizes)
        far = np.max([measure(place) for measure, place in zip(measures, places, strict=True)], axis=0, initial=0)
        if (far == 0).any():
            return True
        seen.update(fresh.tolist())
        work += _ROUND + len(keys)
        if work > most:
            return None
        for distance, key in zip(far.tolist(), fresh.tolist(), strict=True):
            if distance < NEVER:
                heapq.heappush(todo, (distance, key))
    return False


def unite(dfas: Sequence[CharDfa], name: str) -> CharDfa:
    """The automaton of the texts that some of `dfas` accept; its characters are classes of bytes.

    Raises ConstraintError if it is too large.
    """
    bytes_apart, classes = _class_bytes(dfas)
    start = np.zeros((1, len(dfas)), dtype=np.int64)
    number, found = {start.tobytes(): 0}, [start]
    rows: list[NDArray[np.int32]] = []
    for places in found:
        after = _move(dfas, places, bytes_apart)
        row = np.full(after.shape[:2], -1, dtype=np.int32)
        fresh: list[NDArray[np.int64]] = []
        for i, letter in np.argwhere((after >= 0).any(axis=2)).tolist():
            if (key := after[i, letter].tobytes()) not in number:
                number[key] = len(number)
                fresh.append(after[i, letter])
            row[i, letter] = number[key]
        rows.append(row)
        if len(number) > MAX_STATES or len(number) * len(bytes_apart) > MAX_ENTRIES:
            raise ConstraintError(f"{name}: the automaton of all together is too large; give fewer, or simpler ones")
        found += [np.array(fresh[k : k + 1024]) for k in range(0, len(fresh), 1024)]
    places = np.vstack(found)
    accept = np.logical_or.reduce([_accept(dfa, places[:, k]) for k, dfa in enumerate(dfas)])
    letters = Alphabet((-2 - classes)[None, :].astype(np.int32), np.ones((1, len(bytes_apart)), dtype=np.bool_))
    united = trim(CharDfa(np.vstack(rows), accept, letters))
    assert united is not None  # each accepts some text
    return united


def _class_bytes(dfas: Sequence[CharDfa]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One byte of each class of those that no automaton tells apart, and the class of each of the 256."""
    steps = np.vstack([dfa.alphabet.step for dfa in dfas])
    _, first, classes = np.unique(steps, axis=1, return_index=True, return_inverse=True)
    return first, classes.reshape(-1)


def _accept(dfa: CharDfa, states: NDArray[np.int64]) -> NDArray[np.bool_]:
    q, within = np.divmod(states, len(dfa.alphabet.step))
    return (states >= 0) & (within == 0) & dfa.accept[q]


def _move(dfas: Sequence[CharDfa], places: NDArray[np.int64], bytes_: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, B, K) the places after each of B bytes, from (n, K)."""
    after = np.full((len(places), len(bytes_), len(dfas)), -1, dtype=np.int64)
    for k, dfa in enumerate(dfas):
        size = len(dfa.alphabet.step)
        q, within = np.divmod(places[:, k], size)
        move = dfa.alphabet.step[within][:, bytes_]
        delta = dfa.delta if dfa.delta.size else np.full((len(dfa.delta), 1), -1)  # of the empty text: no moves at all
        target = delta[q[:, None], np.maximum(-2 - move, 0)].astype(np.int64)
        whole = np.where(target < 0, -1, target * size)
        there = np.where(move >= 0, q[:, None] * size + move, np.where(move == -1, -1, whole))
        after[:, :, k] = np.where(places[:, k, None] < 0, -1, there)
    return after
