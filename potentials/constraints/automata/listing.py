"""The texts of an automaton, one by one, where they are few."""

from __future__ import annotations

import numpy as np

from feynkac.base.errors import ConstraintError
from feynkac.base.masks import TokenConstraint, unpack
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials.constraints.automata.nfa import CharDfa

BYTES = Vocabulary((*(bytes([byte]) for byte in range(256)), b""), (256,))
"""Every byte by itself, and an end: over these a constraint spells each text in one way."""
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


def list_accepted(constraint: TokenConstraint, most: int) -> list[str] | None:
    """As `list_texts`, for a constraint whose automaton is an engine's own: it is asked byte by byte.

    Where the engine runs into dead ends, there may be fewer texts than it seems, and None is the answer sooner.
    """
    try:
        automaton = constraint.automaton(BYTES)
    except ConstraintError:
        return None
    found: list[bytes] = []
    prefixes, states = [b""], np.array([automaton.start], dtype=np.int64)
    for _ in range(_MAX_LENGTH):
        ends = automaton.accepts(states)
        found += [written for written, end in zip(prefixes, ends, strict=True) if end]
        parent, byte = np.nonzero(unpack(automaton.masks(states), BYTES.size)[:, :256])
        if len(found) + len(parent) > most:
            return None
        if not len(parent):
            return sorted(text.decode() for text in found)
        states = automaton.advance(states[parent], byte.astype(np.int64))
        prefixes = [prefixes[i] + bytes([b]) for i, b in zip(parent.tolist(), byte.tolist(), strict=True)]
    return None
