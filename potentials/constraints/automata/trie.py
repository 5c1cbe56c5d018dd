"""The tokens of a vocabulary as a trie, and the kernels that walk it with an automaton over bytes.

All kernels are plain loops over arrays: they run undecorated too, only slower. Each holds the step to the next node
anew: as a function of its own, or as a generator, it makes masks 1.8 and 6 times slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np
from numpy.typing import NDArray

from feynkac.base.per_vocabulary import PerVocabulary

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary


DEAD, LIVE, UNKNOWN, PASSAGE = 0, 1, 2, 3


@dataclass(frozen=True)
class Trie:
    """V tokens, and the nodes of their trie in depth-first order. Tokens without bytes are in none."""

    size: int
    """V, padding included."""
    flat: NDArray[np.uint8]
    """All bytes of all tokens; token v holds `flat[offset[v] : offset[v + 1]]`."""
    offset: NDArray[np.int64]
    """(V + 1,)"""
    byte: NDArray[np.uint8]
    """(nodes,)"""
    depth: NDArray[np.int32]
    """(nodes,) the number of bytes before each."""
    skip: NDArray[np.int32]
    """(nodes,) the first node after the subtree of each."""
    first: NDArray[np.int32]
    """(nodes + 1,): tokens `token[first[k] : first[k + 1]]` end at node k."""
    token: NDArray[np.int32]
    single: NDArray[np.bool_]
    """(256,): the bytes that are a token by themselves."""
    height: int
    """The length of the longest token, in bytes."""

    def list_levels(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """The nodes of each depth, and their parents; -1 for the root, which is no node."""
        levels: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        above = np.array([-1], dtype=np.int64)
        for depth in range(self.height):
            nodes = np.flatnonzero(self.depth == depth)
            levels.append((nodes, above[np.searchsorted(above, nodes) - 1]))
            above = nodes
        return levels

    @property
    def ends(self) -> NDArray[np.int64]:
        """(tokens with text,) the node at which each of `token` ends."""
        return np.repeat(np.arange(len(self.byte)), np.diff(self.first))


_tries: PerVocabulary[Trie] = PerVocabulary()


def find_trie(vocabulary: Vocabulary) -> Trie:
    """The trie of a vocabulary, built once."""
    return _tries.find(vocabulary, _build_trie)


def _build_trie(vocabulary: Vocabulary) -> Trie:
    eos = set(vocabulary.eos)
    tokens = [b"" if v in eos else text for v, text in enumerate(vocabulary.tokens)]
    offset = np.concatenate([[0], np.cumsum([len(text) for text in tokens])]).astype(np.int64)
    flat = np.frombuffer(b"".join(tokens), dtype=np.uint8)
    order = np.array(sorted((v for v, text in enumerate(tokens) if text), key=tokens.__getitem__), dtype=np.int64)
    byte, depth, skip, first, token = _list_nodes(flat, offset, order)
    single = np.zeros(256, dtype=np.bool_)
    single[[text[0] for text in tokens if len(text) == 1]] = True
    height = max((len(text) for text in tokens), default=0)
    return Trie(vocabulary.size, flat, offset, byte, depth, skip, first, token, single, height)


@numba.njit(cache=True)
def _list_nodes(flat, offset, order):
    """Nodes in depth-first order from tokens in the order of their bytes: each adds what it does not share."""
    n = len(flat)
    byte, depth = np.empty(n, np.uint8), np.empty(n, np.int32)
    skip, first = np.empty(n, np.int32), np.empty(n + 1, np.int32)
    token, path = np.empty(len(order), np.int32), np.empty(n + 1, np.int32)
    count, open_depth = 0, 0
    for k in range(len(order)):
        low, high = offset[order[k]], offset[order[k] + 1]
        shared = 0
        while shared < open_depth and shared < high - low and byte[path[shared]] == flat[low + shared]:
            shared += 1
        for d in range(shared, open_depth):
            skip[path[d]] = count
        for d in range(shared, high - low):
            byte[count], depth[count], first[count] = flat[low + d], d, k
            path[d] = count
            count += 1
        open_depth = high - low
        token[k] = order[k]
    for d in range(open_depth):
        skip[path[d]] = count
    first[count] = len(order)
    return byte[:count], depth[:count], skip[:count], first[: count + 1], token


@numba.njit(cache=True, nogil=True)
def fill(row, q, u, alive, step, delta, byte, depth, skip, first, token, path):
    """Set in `row` the bits of tokens that lead from (q, u) to live states; return how many lead to unknown ones.

    `alive` (Q, U), of each state: DEAD, LIVE, UNKNOWN, or PASSAGE (bytes lead on from there, but no tokens).
    `path` (2, height + 1) is a buffer: the states q and u above the node that is looked at.
    """
    unknown, k = 0, 0
    path[0, 0], path[1, 0] = q, u
    while k < len(byte):
        d = depth[k]
        q, move = path[0, d], step[path[1, d], byte[k]]
        u = move if move >= 0 else 0
        if move < 0:
            q = -1 if move == -1 else delta[q, -2 - move]
        if q < 0 or alive[q, u] == DEAD:
            k = skip[k]
            continue
        path[0, d + 1], path[1, d + 1] = q, u
        if alive[q, u] == LIVE:
            for j in range(first[k], first[k + 1]):
                row[token[j] >> 5] |= np.uint32(1) << np.uint32(token[j] & 31)
        elif alive[q, u] == UNKNOWN:
            unknown += first[k + 1] - first[k]
        k += 1
    return unknown


@numba.njit(cache=True, nogil=True)
def refill(row, q, u, q2, u2, alive, step, delta, byte, depth, skip, first, token, path, path2):
    """As `fill`, where `row` holds the tokens of another state (q2, u2): only what differs is looked at.

    Where both states come to the same one, the same leads on. Returns how many tokens lead to unknown states, and how
    many nodes were looked at.
    """
    unknown, work, k = 0, 0, 0
    path[0, 0], path[1, 0], path2[0, 0], path2[1, 0] = q, u, q2, u2
    while k < len(byte):
        work += 1
        d = depth[k]
        q, move = path[0, d], step[path[1, d], byte[k]]
        u = move if move >= 0 else 0
        if move < 0:
            q = -1 if move == -1 else delta[q, -2 - move]
        q2, u2 = path2[0, d], 0
        if q2 >= 0:
            move = step[path2[1, d], byte[k]]
            u2 = move if move >= 0 else 0
            if move < 0:
                q2 = -1 if move == -1 else delta[q2, -2 - move]
        if q2 >= 0 and alive[q2, u2] == DEAD:
            q2 = -1
        dead = q < 0 or alive[q, u] == DEAD
        if (dead and q2 < 0) or (not dead and q == q2 and u == u2):
            k = skip[k]
            continue
        last = first[skip[k]] if dead else first[k + 1]
        for j in range(first[k], last):
            bit = np.uint32(1) << np.uint32(token[j] & 31)
            if not dead and alive[q, u] == LIVE:
                row[token[j] >> 5] |= bit
            else:
                row[token[j] >> 5] &= ~bit
        if dead:
            k = skip[k]
            continue
        if alive[q, u] == UNKNOWN:
            unknown += first[k + 1] - first[k]
        path[0, d + 1], path[1, d + 1], path2[0, d + 1], path2[1, d + 1] = q, u, q2, u2
        k += 1
    return unknown, work


@numba.njit(cache=True, nogil=True)
def find_ends(q, u, alive, step, delta, byte, depth, skip, first, token, path, seen):
    """The distinct states q * U + u to which tokens lead from (q, u), and how many nodes it took to find them.

    `seen` (Q * U,) is a buffer of False, and is left so.
    """
    ends, count, work, k = np.empty(min(len(token), len(seen)), np.int64), 0, 0, 0
    path[0, 0], path[1, 0] = q, u
    while k < len(byte):
        work += 1
        d = depth[k]
        q, move = path[0, d], step[path[1, d], byte[k]]
        u = move if move >= 0 else 0
        if move < 0:
            q = -1 if move == -1 else delta[q, -2 - move]
        if q < 0 or alive[q, u] == DEAD:
            k = skip[k]
            continue
        path[0, d + 1], path[1, d + 1] = q, u
        if first[k] < first[k + 1] and not seen[q * len(step) + u]:
            seen[q * len(step) + u] = True
            ends[count] = q * len(step) + u
            count += 1
        k += 1
    for i in range(count):
        seen[ends[i]] = False
    return ends[:count], work


@numba.njit(cache=True, nogil=True)
def advance(states, tokens, alive, step, delta, flat, offset):
    """(N,) states q * U + u after one more token each; -1 where there is none."""
    after = np.full(len(states), -1, np.int64)
    for i in range(len(states)):
        token = tokens[i]
        if states[i] < 0 or token < 0 or token + 1 >= len(offset) or offset[token] == offset[token + 1]:
            continue
        q, u = states[i] // len(step), states[i] % len(step)
        for k in range(offset[token], offset[token + 1]):
            move = step[u, flat[k]]
            u = move if move >= 0 else 0
            if move < 0:
                q = -1 if move == -1 else delta[q, -2 - move]
            if q < 0 or alive[q, u] == DEAD:
                q = -1
                break
        if q >= 0:
            after[i] = q * len(step) + u
    return after
