"""Where a marker comes in a text, token by token, and the tokens that spell what a token leaves behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ConstraintError
from feynkac.base.vocabulary import Vocabulary

if TYPE_CHECKING:
    from feynkac.potentials.constraints.automata.trie import Trie

Moves: TypeAlias = "tuple[NDArray[np.int32], NDArray[np.int32]]"
"""(V,) the state after each token from one free state, and (V,) the bytes of the token that it took to get there."""


def find_borders(marker: bytes) -> NDArray[np.int64]:
    """(L, 256) the number of bytes of the marker that the text ends in, after one more byte (Knuth, Morris, Pratt)."""
    table = np.zeros((len(marker), 256), dtype=np.int64)
    border = 0
    for q, byte in enumerate(marker):
        table[q] = table[border] if q else 0
        table[q, byte] = q + 1
        border = int(table[border, byte]) if q else 0
    return table


def follow(table: NDArray[np.int64], tokens: Trie, start: int) -> Moves:
    """Where each token leads from `start`, all tokens at a time and byte by byte; -1 for those without text."""
    length = np.diff(tokens.offset)
    after, used = np.where(length > 0, start, -1).astype(np.int32), length.astype(np.int32)
    going = np.flatnonzero(length)
    for k in range(tokens.height):
        going = going[length[going] > k]
        after[going] = table[after[going], tokens.flat[tokens.offset[going] + k]]
        whole = after[going] == len(table)
        used[going[whole]] = k + 1
        going = going[~whole]
    return after, used


def follow_control(token: int, vocabulary: Vocabulary, name: str) -> Moves:
    """The same for a marker that is one token, whatever its text."""
    if not token < vocabulary.size or token in vocabulary.eos:
        raise ConstraintError(
            f"{name}: {token} is an end of sequence, or no token of a vocabulary of {vocabulary.size}"
        )
    after = np.where(vocabulary.with_text, 0, -1).astype(np.int32)
    after[token] = 1
    return after, np.array([len(text) for text in vocabulary.tokens], dtype=np.int32)


def make_spelling(tokens: tuple[bytes, ...], rests: Iterable[bytes]) -> Callable[[bytes], tuple[int, ...]]:
    """The fewest tokens that spell each of `rests`, or one new token."""
    ids = {token: i for i, token in reversed(list(enumerate(tokens))) if token}
    found: dict[bytes, tuple[int, ...]] = {b"": ()}
    new = len(tokens)
    for rest in sorted(rests):
        best: list[tuple[int, ...] | None] = [()]
        for end in range(1, len(rest) + 1):
            ways = [(*way, ids[rest[k:end]]) for k in range(end) if (way := best[k]) is not None and rest[k:end] in ids]
            best.append(min(ways, key=len, default=None))
        whole = best[-1]
        if whole is None:
            whole, new = (new,), new + 1
        found[rest] = whole
    return found.__getitem__
