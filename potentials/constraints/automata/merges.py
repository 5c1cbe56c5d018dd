"""Byte-pair encodings: which tokens can stand next to each other in what the encoder itself writes.

An encoding by merges is canonical if and only if each two neighbours are (Vieira et al. 2025, "Language models over
canonical byte-pair encodings"): a and b are not, if some merge across their border comes before those that have made
them. Only what borders may take part: the right spine of a's tree of merges, and the left spine of b's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

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
        self._partners: dict[int, list[tuple[int, int]]] = {}
        for (left, right), rank in self._rank.items():
            self._partners.setdefault(left, []).append((right, rank))
        self._first, self._begins, self._used = self._list_beginnings(size)

    def find_conflicts(self, token: int) -> NDArray[np.int64]:
        """The tokens that never stand behind `token` where no border of the pre-tokenizer is between them."""
        found: list[NDArray[np.int64]] = []
        for part, used in self._spine(token, 1):
            for partner, rank in self._partners.get(part, ()):
                if rank < used:
                    low, high = self._first[partner : partner + 2]
                    # In falling order of the ranks at which those that begin with the partner have used it.
                    late = np.searchsorted(-self._used[low:high], -rank, side="right")
                    found.append(self._begins[low : low + late])
        return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)

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

    def _list_beginnings(self, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """For each token those whose left spine holds it, and when they have used it, the last first."""
        entries = [
            (part, -used, token)
            for token in np.flatnonzero(self.reached).tolist()
            for part, used in self._spine(token, 0)
        ]
        table = np.array(sorted(entries), dtype=np.int64).reshape(-1, 3)
        return np.searchsorted(table[:, 0], np.arange(size + 1)), table[:, 2].copy(), -table[:, 1]


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
