"""Several automata at once: whether they have a text in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from feynkac.potentials.constraints.automata.nfa import CharDfa

_MAX_PLACES, _MAX_LENGTH = 200_000, 5_000
"""Places and bytes of a text that are looked at: a second or two."""


def share_text(dfas: Sequence[CharDfa]) -> bool | None:
    """Whether some text is accepted by all of `dfas`; None where it would take too long to tell.

    All are walked at once, byte by byte, breadth first: a place is the state of each, and how far into a character.
    """
    steps = [dfa.alphabet.step for dfa in dfas]
    bytes_apart = np.unique(np.vstack(steps), axis=1, return_index=True)[1]
    places = np.zeros((1, 2 * len(dfas)), dtype=np.int64)
    seen = {places.tobytes()}
    for _ in range(_MAX_LENGTH):
        if not len(places):
            return False
        ends = [(places[:, 2 * k + 1] == 0) & dfa.accept[places[:, 2 * k]] for k, dfa in enumerate(dfas)]
        if np.logical_and.reduce(ends).any():
            return True
        found = np.vstack([_move(dfas, places, int(byte)) for byte in bytes_apart])
        fresh = [place for place in np.unique(found, axis=0) if place.tobytes() not in seen]
        seen.update(place.tobytes() for place in fresh)
        if len(seen) > _MAX_PLACES:
            return None
        places = np.array(fresh).reshape(-1, 2 * len(dfas))
    return None


def _move(dfas: Sequence[CharDfa], places: np.ndarray, byte: int) -> np.ndarray:
    """The places after one byte, those that are dead left out."""
    after, alive = np.zeros_like(places), np.ones(len(places), dtype=np.bool_)
    for k, dfa in enumerate(dfas):
        q, move = places[:, 2 * k], dfa.alphabet.step[places[:, 2 * k + 1], byte]
        whole = np.flatnonzero(move <= -2)
        after[:, 2 * k], after[:, 2 * k + 1] = q, np.maximum(move, 0)
        after[whole, 2 * k] = dfa.delta[q[whole], -2 - move[whole]]
        alive &= (move != -1) & (after[:, 2 * k] >= 0)
    return after[alive]
