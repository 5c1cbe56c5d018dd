"""What potentials remember about each particle, forked along with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feynkac.base.contract import Rows

T = TypeVar("T")


class Memory:
    """Named per-row arrays that fork with the population.

    A state that has a `memory` lets potentials keep what they need from one step to the next (a running maximum,
    the level at the last word boundary), so that potentials themselves stay free of any run. What belongs to the run as
    a whole is shared by all its populations.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self.problems: Sequence[int] | None = None
        """The place in the call of each problem of this run, where it has but some of them; None: it has all."""
        self._arrays: dict[Hashable, NDArray] = {}
        self._defaults: dict[Hashable, NDArray] = {}
        self._shared: dict[Hashable, object] = {}
        self._notes: dict[str, Counter[int]] = {}

    def __len__(self) -> int:
        return self._n

    def array(self, key: Hashable, default: ArrayLike) -> NDArray:
        """The (N, ...) array of `key`, to be read and written in place; made of `default` on first use."""
        if key not in self._arrays:
            value = self._defaults[key] = np.asarray(default)
            self._arrays[key] = np.broadcast_to(value, (self._n, *value.shape)).copy()
        return self._arrays[key]

    def share(self, key: Hashable, make: Callable[[], T]) -> T:
        """What the whole run keeps under `key`, whichever population asks; made by `make` on first use."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]  # pyright: ignore[reportReturnType]

    def note(self, said: str, rows: Rows) -> None:
        """Let the results of the problems of `rows` say `said` among their warnings, and how many rows it befell."""
        self._notes.setdefault(said, Counter()).update(rows.tolist())

    def count_notes(self, rows: Rows) -> Counter[str]:
        """What has been noted of any of `rows` in this run, and how often."""
        return +Counter({said: sum(noted[row] for row in rows.tolist()) for said, noted in self._notes.items()})

    def fork(self, rows: Rows) -> Memory:
        """The memory of the population whose row `i` continues from `rows[i]`."""
        child = self._bear(len(rows))
        child._arrays = {key: array[rows] for key, array in self._arrays.items()}
        return child

    def concat(self, others: Sequence[Memory]) -> Memory:
        """The memory of the rows of this population, then of those of `others`, which are of the same run."""
        parts = [self, *others]
        child = self._bear(sum(map(len, parts)))
        for part in parts:
            child._defaults |= part._defaults
        for key, default in child._defaults.items():
            child._arrays[key] = np.concatenate([part.array(key, default) for part in parts])
        return child

    def save(self) -> Any:
        """All of it, as a tree in which keys stand as they are (see `feynkac.base.capabilities.Saves`)."""
        arrays = [(key, array, self._defaults[key]) for key, array in self._arrays.items()]
        notes = [(said, [*counter.items()]) for said, counter in self._notes.items()]
        return {"rows": self._n, "arrays": arrays, "shared": [*self._shared.items()], "notes": notes}

    @classmethod
    def load(cls, saved: Any) -> Memory:
        """What `save` gave."""
        found = cls(saved["rows"])
        for key, array, default in saved["arrays"]:
            found._arrays[key], found._defaults[key] = array, default
        found._shared = dict(saved["shared"])
        found._notes = {said: Counter(dict(counts)) for said, counts in saved["notes"]}
        return found

    def _bear(self, n: int) -> Memory:
        """An empty memory of `n` rows of the same run."""
        child = Memory(n)
        child._shared, child._notes, child.problems = self._shared, self._notes, self.problems
        child._defaults = dict(self._defaults)
        return child
