"""What a constraint offers a language model: automata over tokens, and masks packed 32 tokens to a word.

It stands below `models` and `potentials`, which know nothing of each other.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import ChecksTokens, MasksWithin, has

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary

TokenMask: TypeAlias = NDArray[np.uint32]
"""(U, ceil(V / 32)): token `v` is allowed if bit `v % 32` of word `v // 32` is set."""
States: TypeAlias = NDArray[np.int64]
"""Automaton states, one integer a particle; -1 is the dead state."""


@runtime_checkable
class TokenAutomaton(Protocol):
    """A constraint compiled for one vocabulary. States are integers, so forking particles is `states[rows]`."""

    start: int

    def masks(self, states: States) -> TokenMask:
        """(U, ceil(V / 32)) the tokens that may come next from each of U states (call it with distinct ones).

        Exact: a bit is set if and only if some continuation through that token is accepted, as far as the
        constraint's engine can tell. The end-of-sequence bits are set if and only if the state accepts.
        """
        ...

    def advance(self, states: States, tokens: NDArray[np.int64]) -> States:
        """(N,) states after one more token each; -1 where the token is not allowed. No end-of-sequence tokens."""
        ...

    def accepts(self, states: States) -> NDArray[np.bool_]:
        """(N,) whether the text so far is accepted as it stands."""
        ...


@runtime_checkable
class TokenConstraint(Protocol):
    """A potential that is 0 on the texts it accepts and -inf on the others, and can mask a model's next token."""

    name: str

    def automaton(self, vocabulary: Vocabulary) -> TokenAutomaton:
        """Compile for a vocabulary (cached by the constraint). Raises ConstraintError."""
        ...


def mask_within(automaton: TokenAutomaton, states: States, left: NDArray[np.int64]) -> TokenMask:
    """(U, ceil(V / 32)) the tokens that may come next where `left` (U,) more may come in all, that one among them.

    An end of sequence does not count. Where the automaton knows of no distances, these are its `masks`.
    """
    return automaton.masks_within(states, left) if has(automaton, MasksWithin) else automaton.masks(states)


def count_least(automaton: TokenAutomaton, state: int | None = None, most: int = 1 << 16) -> int:
    """The fewest tokens to acceptance from a state, by default the start, as far as the automaton knows; or `most`."""
    start = np.array([automaton.start if state is None else state], dtype=np.int64)

    def enough(left: int) -> bool:
        return bool(mask_within(automaton, start, np.array([left], dtype=np.int64)).any())

    if automaton.accepts(start)[0]:
        return 0
    if has(automaton, ChecksTokens):
        return 1  # more it could tell only by asking about every token
    return bisect.bisect_left(range(most), True, lo=1, key=enough)


def words(n_tokens: int) -> int:
    """How many 32-bit words a mask over `n_tokens` takes."""
    return (n_tokens + 31) // 32


def pack(allowed: NDArray[np.bool_]) -> TokenMask:
    """Pack (..., V) booleans into (..., ceil(V / 32)) words."""
    n = allowed.shape[-1]
    padded = np.zeros((*allowed.shape[:-1], words(n) * 32), dtype=np.bool_)
    padded[..., :n] = allowed
    return np.packbits(padded, axis=-1, bitorder="little").view("<u4").astype(np.uint32, copy=False)


def unpack(mask: TokenMask, n_tokens: int) -> NDArray[np.bool_]:
    """The (..., V) booleans of a packed mask."""
    as_bytes = np.ascontiguousarray(mask, dtype="<u4").view(np.uint8)
    return np.unpackbits(as_bytes, axis=-1, bitorder="little")[..., :n_tokens].astype(np.bool_)
