"""Byte-pair encodings: which tokens can stand next to each other in what the encoder itself writes.

An encoding by merges is canonical if and only if each two neighbours are (Vieira et al. 2025, "Language models over
canonical byte-pair encodings"): a and b are not, if some merge across their border comes before those that have made
them. Only what borders may take part: the right spine of a's tree of merges, and the left spine of b's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

from feynkac.base.masks import TokenMask

Ints: TypeAlias = NDArray[np.int64]
NEVER = 1 << 60
"""The rank of a merge that never comes."""
Spine = list[tuple[int, int]]
"""The tokens on one side of a tree of merges, from the whole inwards, each with the rank of the merge that used it."""


class Merges:
    """The merges of a tokenizer over V tokens, in their order: pairs of the tokens merged, and what they make.

    `ordered` is False where some merge takes what only a later one makes: then nothing is known of neighbours.
    """

    def __init__(self, size: int, pairs: Sequence[tuple[int, int]], made: Sequence[int]) -> None:
        self._rank = {pair: rank for rank, pair in reversed(list(enumerate(pairs)))}
        self._tree: dict[int, tuple[int, int, int]] = {}
        self.reached = np.ones(size, dtype=np.bool_)
        """(V,) the tokens that come in some encoding, as far as merges tell."""
        self.reached[list(made)] = False
        self.ordered = True
        for rank, ((left, right), whole) in enumerate(zip(pairs, made, strict=True)):
            if self._rank[left, right] != rank or whole in self._tree:
                continue
            if not (self.reached[left] and self.reached[right]):
                continue
            if not self._conflicts(left, right, rank):
                self._tree[whole] = left, right, rank
                self.reached[whole] = True
        for (left, right), rank in self._rank.items():
            for part in (left, right):
                self.ordered &= part not in self._tree or self._tree[part][2] < rank
        self._partners = _index([(left, right, rank) for (left, right), rank in self._rank.items()], size)
        self._beginnings = _index(self._list_beginnings(), size)

    def forbid(self, token: int, row: TokenMask, only: NDArray[np.bool_]) -> None:
        """Clear in `row` the tokens among `only` (V,) that never stand behind `token` in one piece of text."""
        part, used = np.array(self._spine(token, 1), dtype=np.int64).T
        _clear(row, only, part, used, *self._partners, *self._beginnings)

    def _conflicts(self, left: int, right: int, below: int) -> bool:
        """Whether some merge across the border of two tokens comes before rank `below`."""
        inner = self._spine(right, 0)
        for part, used in self._spine(left, 1):
            for other, used_too in inner:
                rank = self._rank.get((part, other), NEVER)
                # Of equal merges the leftmost comes first.
                if rank < below and rank < used and rank <= used_too:
                    return True
        return False

    def _spine(self, token: int, side: int) -> Spine:
        spine = [(token, NEVER)]
        while token in self._tree:
            *parts, rank = self._tree[token]
            token = parts[side]
            spine.append((token, rank))
        return spine

    def _list_beginnings(self) -> list[tuple[int, int, int]]:
        """Each token on the left spine of another, that one, and minus the rank at which it used it."""
        return [
            (part, token, -used)
            for token in np.flatnonzero(self.reached).tolist()
            for part, used in self._spine(token, 0)
        ]


def _index(entries: list[tuple[int, int, int]], size: int) -> tuple[Ints, Ints, Ints]:
    """(V + 1,) where those of each token begin among the entries sorted by token and number; the rest of them."""
    table = np.array(entries, dtype=np.int64).reshape(-1, 3)
    table = table[np.lexsort((table[:, 2], table[:, 0]))]
    return np.searchsorted(table[:, 0], np.arange(size + 1)), table[:, 1].copy(), table[:, 2].copy()


@numba.njit(cache=True, nogil=True)
def _clear(row, only, part, used, first_partner, partner, rank, first, begins, minus_used):
    """Clear the bits of tokens that some partner of a part begins, where their merge comes before both were used."""
    for i in range(len(part)):
        for k in range(first_partner[part[i]], first_partner[part[i] + 1]):
            if rank[k] >= used[i]:
                break
            for j in range(first[partner[k]], first[partner[k] + 1]):
                if -minus_used[j] < rank[k]:
                    break
                token = begins[j]
                if only[token]:
                    row[token >> 5] &= ~(np.uint32(1) << np.uint32(token & 31))


def read_merges(vocab: Mapping[str, int], merges: Iterable[str | Sequence[str]], size: int) -> Merges:
    """The merges of a tokenizer's definition, those that make tokens of the vocabulary."""
    pairs: list[tuple[int, int]] = []
    made: list[int] = []
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ids = [vocab.get(piece, size) for piece in (left, right, left + right)]
        if max(ids) < size:
            pairs.append((ids[0], ids[1]))
            made.append(ids[2])
    return Merges(size, pairs, made)
