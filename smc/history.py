"""The history of a run: one summary a step, and the family tree of the particles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from feynkac.base.contract import Rows
from feynkac.smc.engine import Step

PYTHON_UP_TO = 256
"""Rows up to which pruning takes less than a millisecond uncompiled, so that small populations wait for no compiler."""


class Summary:
    """Turns the steps of one group into plain numbers, keeping only each row's root."""

    def __init__(self) -> None:
        self._roots: Rows | None = None

    def __call__(self, step: Step) -> dict[str, Any]:
        """The record of one step.

        t; ess, in particles; log_z, nats; max_weight, the largest normalised weight; alive and done, in rows;
        parents, how many rows of the step before have a child; roots, how many first rows have a live descendant;
        resampled.
        """
        before = self._roots if step.t else None  # particle Gibbs shows one run after the other
        self._roots = np.arange(len(step.rows)) if before is None else before[step.rows]
        alive = step.log_weight > -np.inf
        log_z = step.log_z
        return {
            "t": step.t,
            "ess": float(step.ess),
            "log_z": float(log_z),
            "max_weight": float(np.exp(step.log_weight.max() - log_z)) if alive.any() else 0.0,
            "alive": int(alive.sum()),
            "done": int((step.done & alive).sum()),
            "parents": count_distinct(step.rows),
            "roots": count_distinct(self._roots[alive]),
            "resampled": any(step.resampled),
        }


def count_distinct(rows: Rows) -> int:
    """The number of different rows; without a sort or a hash table, which took more time than a whole step."""
    return int(np.count_nonzero(np.bincount(rows)))


class Trace:
    """Keeps the summary of every step (see `Summary`): `trace["ess"]` is one column."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self._summary = Summary()

    def __call__(self, step: Step) -> None:
        self.records.append(self._summary(step))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, name: str) -> list[Any]:
        return [record[name] for record in self.records]


class Genealogy:
    """The family tree of one group: which slot each final row's ancestor had at every step.

    A node is a slot from one resampling to the next. With `prune` branches without living descendants are forgotten,
    which leaves at most R + C N log N nodes in expectation after R resamplings (Jacob, Murray, Rubenthaler 2015,
    Theorem 1 and Algorithm 1) instead of R N.
    """

    def __init__(self, *, prune: bool = True) -> None:
        self._prune = prune
        self._forget()

    def _forget(self) -> None:
        self._last = -1
        self._size = 0
        self._leaves = np.empty(0, dtype=np.int64)
        self._free = np.empty(0, dtype=np.int64)
        self._n_free = 0
        self._parent = np.empty(0, dtype=np.int64)
        self._children = np.empty(0, dtype=np.int64)
        self._born = np.empty(0, dtype=np.int64)
        self._slot = np.empty(0, dtype=np.int64)

    def __call__(self, step: Step) -> None:
        if step.t == 0:  # another run begins: only the last one has a tree
            self._forget()
        self._last = step.t
        if not len(self._leaves):
            self._leaves = self._insert(np.full(len(step.rows), -1), step.t)
        elif any(step.resampled):
            before = self._leaves
            self._leaves = self._insert(before[step.rows], step.t)
            if self._prune:
                kernel = prune_branches if len(before) > PYTHON_UP_TO else prune_branches.py_func
                self._n_free = kernel(before, self._parent, self._children, self._free, self._n_free)

    @property
    def nodes(self) -> int:
        """The number of nodes that are kept."""
        return self._size - self._n_free

    def path(self, row: int) -> Rows:
        """(T,) the slot of the ancestor of final `row` in the population of every step; the last is `row` itself."""
        slots = np.empty(self._last + 1, dtype=np.int64)
        end = self._last + 1
        node = int(self._leaves[row])
        while node >= 0:
            slots[self._born[node] : end] = self._slot[node]
            end, node = int(self._born[node]), int(self._parent[node])
        return slots

    def paths(self) -> Rows:
        """(N, T) `path` of every final row."""
        return np.stack([self.path(row) for row in range(len(self._leaves))])

    def _insert(self, parents: Rows, t: int) -> Rows:
        """New nodes for the rows of step `t`, in freed places first."""
        n = len(parents)
        reused = min(n, self._n_free)
        self._reserve(self._size + n - reused)
        self._n_free -= reused
        nodes = np.concatenate(
            [self._free[self._n_free : self._n_free + reused], np.arange(self._size, self._size + n - reused)]
        )
        self._size += n - reused
        self._parent[nodes] = parents
        self._children[nodes] = 0
        self._born[nodes] = t
        self._slot[nodes] = np.arange(n)
        np.add.at(self._children, parents[parents >= 0], 1)
        return nodes

    def _reserve(self, size: int) -> None:
        if size > len(self._parent):
            spare = np.zeros(max(size, 2 * len(self._parent)) - len(self._parent), dtype=np.int64)
            self._parent = np.concatenate([self._parent, spare])
            self._children = np.concatenate([self._children, spare])
            self._born = np.concatenate([self._born, spare])
            self._slot = np.concatenate([self._slot, spare])
            self._free = np.concatenate([self._free, spare])


@njit(cache=True)
def prune_branches(leaves: Rows, parent: Rows, children: Rows, free: Rows, n_free: int) -> int:
    """Forget the childless among `leaves`, and their ancestors as they become childless.

    Writes the places set free to `free[n_free:]` and returns the new number of free places.
    """
    for leaf in leaves:
        node = leaf
        while node >= 0 and children[node] == 0:
            free[n_free] = node
            n_free += 1
            node = parent[node]
            if node >= 0:
                children[node] -= 1
    return n_free
