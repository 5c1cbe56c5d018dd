"""Sums over the tokens that go on as given bytes do, and the ways that a byte leads on.

A vocabulary is the sorted list of its tokens' bytes, so that all tokens that begin alike stand side by side: a node of
the trie of tokens is a range of that list, and there is no other trie. All sums are of log-probabilities, taken
relative to their largest term, so that what is rare is as exact as what is likely.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feynkac.base.vocabulary import Vocabulary


class Words(NamedTuple):
    """The n tokens of a vocabulary that have a text, in the order of their bytes."""

    ids: NDArray[np.int64]
    """(n,) the token of each place in the order."""
    data: NDArray[np.uint8]
    """Their bytes, one token behind the other."""
    start: NDArray[np.int64]
    """(n + 1,) where each token begins in `data`."""


def sort_words(vocabulary: Vocabulary) -> Words:
    """The tokens with text in the order of their bytes; those of equal bytes side by side, by id."""
    ids = sorted((i for i, text in enumerate(vocabulary.tokens) if text), key=lambda i: (vocabulary.tokens[i], i))
    texts = [vocabulary.tokens[i] for i in ids]
    start = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return Words(np.array(ids, np.int64), np.frombuffer(b"".join(texts), np.uint8), start)


@njit(cache=True)
def _log_sum(values):
    """Log of the sum of exp(values); -inf of none."""
    top = -np.inf
    for x in values:
        top = max(top, np.float64(x))
    if top == -np.inf:
        return top
    total = 0.0
    for x in values:
        total += np.exp(np.float64(x) - top)
    return top + np.log(total)


@njit(cache=True)
def _add(a, b):
    """Log of exp(a) + exp(b)."""
    high, low = max(a, b), min(a, b)
    return high if low == -np.inf else high + np.log1p(np.exp(low - high))


@njit(cache=True)
def _find_first(data, start, low, high, depth, byte):
    """The first place in [low, high) whose byte at `depth` is not below `byte`; all places there have one."""
    while low < high:
        middle = (low + high) // 2
        if data[start[middle] + depth] < byte:
            low = middle + 1
        else:
            high = middle
    return low


@njit(nogil=True, cache=True)
def sum_next(data, start, owner, base, low, high, depth, at, values, out):
    """Add to `out` (U, 256) the log-mass of each next byte, over all hypotheses.

    Hypothesis h belongs to context `owner[h]`, has the tokens of places [low[h], high[h]) before it, all longer than
    the `depth[h]` bytes that are written of them, and `values[at[h]:]` are their logits; `base[h]` is added to each.
    """
    for h in range(len(owner)):
        i = low[h]
        while i < high[h]:
            byte = data[start[i] + depth[h]]
            end = _find_first(data, start, i, high[h], depth[h], np.int64(byte) + 1)
            shift = at[h] - low[h]
            mass = base[h] + _log_sum(values[shift + i : shift + end])
            out[owner[h], byte] = _add(out[owner[h], byte], mass)
            i = end


@njit(nogil=True, cache=True)
def find_ways(data, start, base, low, high, depth, at, values, parents, given, first, last):
    """The ways that bytes lead on: context j takes byte `given[j]` behind context `parents[j]`.

    The hypotheses of context u are [first[u], last[u]). Returns three integer columns and the log-mass of each way: the
    context, the hypothesis it goes on from, and the place of the token that is complete with it, or -1 where one is
    begun; and of those the range of places left. Ways are in the order of their contexts.
    """
    room = 0
    for j in range(len(parents)):
        for h in range(first[parents[j]], last[parents[j]]):
            left = _find_first(data, start, low[h], high[h], depth[h], np.int64(given[j]))
            right = _find_first(data, start, left, high[h], depth[h], np.int64(given[j]) + 1)
            while left < right and start[left + 1] - start[left] == depth[h] + 1:
                room, left = room + 1, left + 1
            room += left < right
    ways, mass = np.empty((5, room), np.int64), np.empty(room)
    n = 0
    for j in range(len(parents)):
        for h in range(first[parents[j]], last[parents[j]]):
            left = _find_first(data, start, low[h], high[h], depth[h], np.int64(given[j]))
            right = _find_first(data, start, left, high[h], depth[h], np.int64(given[j]) + 1)
            shift = at[h] - low[h]
            while left < right and start[left + 1] - start[left] == depth[h] + 1:
                ways[0, n], ways[1, n], ways[2, n], ways[3, n], ways[4, n] = j, h, left, 0, 0
                mass[n] = base[h] + values[shift + left]
                n, left = n + 1, left + 1
            if left < right:
                ways[0, n], ways[1, n], ways[2, n], ways[3, n], ways[4, n] = j, h, -1, left, right
                mass[n] = base[h] + _log_sum(values[shift + left : shift + right])
                n += 1
    return ways, mass


@njit(nogil=True, cache=True)
def copy_parts(values, source, size, out):
    """Write the parts `values[source[i]:][:size[i]]` to `out`, one behind the other."""
    n = 0
    for i in range(len(source)):
        out[n : n + size[i]] = values[source[i] : source[i] + size[i]]
        n += size[i]
