"""The texts of an automaton, one by one, where they are few."""

from __future__ import annotations

import numpy as np

from feynkac.potentials.constraints.automata.nfa import CharDfa

_MAX_LENGTH = 1_000
"""Bytes of a text up to which it is listed."""


def list_texts(dfa: CharDfa, most: int) -> list[str] | None:
    """All texts that `dfa` accepts, or None if there are more than `most`, or long ones among them.

    Every state leads to acceptance, so that there are at least as many texts as prefixes of one length.
    """
    found: list[bytes] = []
    prefixes = [(b"", 0, 0)]  # bytes, the state, and the decoder's within a character
    for _ in range(_MAX_LENGTH):
        found += [written for written, q, u in prefixes if u == 0 and dfa.accept[q]]
        longer: list[tuple[bytes, int, int]] = []
        for written, q, u in prefixes:
            longer += [(written + bytes([byte]), after, within) for byte, after, within in _list_moves(dfa, q, u)]
            if len(found) + len(longer) > most:
                return None
        if not longer:
            return sorted(text.decode() for text in found)
        prefixes = longer
    return None


def _list_moves(dfa: CharDfa, q: int, u: int) -> list[tuple[int, int, int]]:
    """The bytes that go on, each with the states after it."""
    moves = dfa.alphabet.step[u]
    within = [
        (byte, q, int(moves[byte])) for byte in np.flatnonzero(moves > 0).tolist() if _leads_on(dfa, q, moves[byte])
    ]
    whole = [(byte, int(dfa.delta[q, -2 - moves[byte]]), 0) for byte in np.flatnonzero(moves <= -2).tolist()]
    return within + [move for move in whole if move[1] >= 0]


def _leads_on(dfa: CharDfa, q: int, u: int) -> bool:
    """Whether some character that may follow state `q` can still be completed."""
    return bool((dfa.alphabet.reach[u] & (dfa.delta[q] >= 0)).any())
