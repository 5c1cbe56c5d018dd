"""What potentials remember about each particle, forked along with it."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feynkac.base.contract import Rows


class Memory:
    """Named per-row arrays that fork with the population.

    A state that has a `memory` lets potentials keep what they need from one step to the next (a running maximum,
    the level at the last word boundary), so that potentials themselves stay free of any run.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._arrays: dict[Hashable, NDArray] = {}

    def __len__(self) -> int:
        return self._n

    def array(self, key: Hashable, default: ArrayLike) -> NDArray:
        """The (N, ...) array of `key`, to be read and written in place; made of `default` on first use."""
        if key not in self._arrays:
            value = np.asarray(default)
            self._arrays[key] = np.broadcast_to(value, (self._n, *value.shape)).copy()
        return self._arrays[key]

    def fork(self, rows: Rows) -> Memory:
        """The memory of the population whose row `i` continues from `rows[i]`."""
        child = Memory(len(rows))
        child._arrays = {key: array[rows] for key, array in self._arrays.items()}
        return child
