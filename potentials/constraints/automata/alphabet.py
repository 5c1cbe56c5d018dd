"""Sets of characters, and the automaton that reads one character of UTF-8 byte by byte.

Regular expressions speak of characters, tokens of bytes. A regular expression distinguishes few classes of
characters, so it is compiled over these classes, and one shared decoder tells which class some bytes spell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feynkac.potentials.constraints.automata.characters import N_CHARS, Ranges

NEVER = 1 << 30
"""A distance that no path has."""
_SURROGATES = (0xD800, 0xE000)  # no characters: UTF-8 cannot spell them


@dataclass(frozen=True)
class Alphabet:
    """C classes of characters and a decoder with U states, of which 0 stands between two characters."""

    step: NDArray[np.int32]
    """(U, 256): the next decoder state (> 0), or -2 - c where the byte completes a character of class c, or -1."""
    reach: NDArray[np.bool_]
    """(U, C): the classes that can still be completed from each decoder state."""

    @property
    def n_classes(self) -> int:
        """C, the number of classes that the constraint distinguishes."""
        return self.reach.shape[1]

    def reach_through(self, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(U, C): as `reach`, through those of the 256 bytes that are `usable`."""
        return self.count_bytes(usable) < NEVER

    def count_bytes(self, usable: NDArray[np.bool_]) -> NDArray[np.int64]:
        """(U, C): the fewest bytes, all `usable`, that complete a character of each class; NEVER where none do."""
        count = np.full((len(self.step), self.n_classes), NEVER, dtype=np.int64)
        for u in reversed(range(len(self.step))):  # children stand after their parents
            steps = self.step[u][usable]
            children = np.unique(steps[steps > 0])
            count[u] = np.minimum(1 + count[children].min(axis=0, initial=NEVER), NEVER)
            count[u, -2 - steps[steps <= -2]] = 1
        return count


def build_bytes(used: bytes) -> tuple[Alphabet, list[int]]:
    """The alphabet whose characters are the bytes in `used`, and the class of each of the 256 bytes; -1 of others."""
    classes = np.full(256, -1, dtype=np.int32)
    classes[sorted(set(used))] = np.arange(len(set(used)))
    step = np.where(classes < 0, -1, -2 - classes)[None, :].astype(np.int32)
    return Alphabet(step, np.ones((1, len(set(used))), dtype=np.bool_)), classes.tolist()


def build_alphabet(sets: Sequence[Ranges]) -> tuple[Alphabet, list[NDArray[np.int64]]]:
    """The coarsest alphabet in which each set is a union of classes, and the classes of each set."""
    cuts = {0, N_CHARS, *_SURROGATES}.union(*(edge for ranges in sets for edge in ranges))
    edges = np.array(sorted(cuts))
    member = np.zeros((len(edges) - 1, len(sets)), dtype=np.bool_)
    for k, ranges in enumerate(sets):
        for low, high in np.searchsorted(edges, ranges) if ranges else ():
            member[low:high, k] = True
    member[slice(*np.searchsorted(edges, _SURROGATES))] = False
    classes, of_interval = np.unique(member, axis=0, return_inverse=True)
    if not len(sets) or not classes[0].any():  # characters in no set spell nothing: class -1
        classes, of_interval = classes[1:], of_interval.reshape(-1) - 1
    chars = np.repeat(of_interval.reshape(-1), np.diff(edges)).astype(np.int32)
    step = _build_decoder(chars)
    shape = Alphabet(step, np.zeros((len(step), len(classes)), dtype=np.bool_))
    reach = shape.reach_through(np.ones(256, dtype=np.bool_))
    return Alphabet(step, reach), [np.flatnonzero(classes[:, k]) for k in range(len(sets))]


def _build_decoder(classes: NDArray[np.int32]) -> NDArray[np.int32]:
    """(U, 256) from the (0x110000,) class of each character: a trie of UTF-8 with equal subtrees shared."""
    nodes: dict[bytes, int] = {}

    def intern(rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """Decoder states whose 64 continuation bytes lead to `rows` (K, 64); -1 where all of them lead nowhere."""
        ids = np.full(len(rows), -1, dtype=np.int32)
        for k in np.flatnonzero((rows != -1).any(axis=1)):
            ids[k] = nodes.setdefault(rows[k].tobytes(), len(nodes))
        return ids

    blocks = np.where(classes < 0, -1, -2 - classes).reshape(-1, 64).astype(np.int32)
    ascii_moves, blocks[:2] = blocks[:2].reshape(-1).copy(), -1
    leaves = intern(blocks)
    groups = leaves.reshape(-1, 64).copy()  # 272 blocks of 4096 characters
    two, groups[0, :32] = leaves[:32].copy(), -1  # three bytes never spell what two can
    three = intern(groups)
    planes = np.full((5, 64), -1, dtype=np.int32)
    planes.reshape(-1)[16 : len(three)] = three[16:]  # nor four what three can
    four = intern(planes)
    root = np.full(256, -1, dtype=np.int32)
    root[:0x80] = ascii_moves
    root[0xC0:0xE0], root[0xE0:0xF0], root[0xF0:0xF5] = two, three[:16], four
    return _assemble(root, [np.frombuffer(key, dtype=np.int32) for key in nodes])


def _assemble(root: NDArray[np.int32], nodes: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Number the root 0 and the nodes backwards, so that children stand after their parents."""
    step = np.full((len(nodes) + 1, 256), -1, dtype=np.int32)

    def renumber(row: NDArray[np.int32]) -> NDArray[np.int32]:
        return np.where(row >= 0, len(nodes) - row, row)

    step[0] = renumber(root)
    for k, row in enumerate(nodes):
        step[len(nodes) - k, 0x80:0xC0] = renumber(row)
    return step
