"""Random numbers keyed by (seed, stream, group, step, slot).

Counter-based (Philox 4x64; Salmon et al. 2011): a draw is a pure function of its key, so results depend neither on
the size of the batch nor on chunking or threads, and changing the resampler does not change the proposals.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import as_whole

Stream = Literal["init", "propose", "resample", "move", "output"]
_STREAMS: dict[str, int] = {name: i for i, name in enumerate(("init", "propose", "resample", "move", "output"))}


def row_masses(log_p: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, K) probabilities up to a factor for each row: the likeliest category has 1, a row without mass zeros.

    Raises ArgumentError for NaN and +inf.
    """
    top = log_p.max(axis=1, keepdims=True)
    bad = np.isnan(top) | (top == np.inf)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ArgumentError(
            f"a draw from log-probabilities with {top[row, 0]} in row {row}; use -inf to forbid a category"
        )
    return np.exp(log_p - np.where(top == -np.inf, 0.0, top))


class KeyedRng:
    """One stream at one step, over one or more groups of rows (see `feynkac.base.contract.Rng`)."""

    def __init__(self, key: NDArray[np.uint64], step: int, groups: Sequence[int], sizes: Sequence[int] | None) -> None:
        self._key = key
        self._step = step
        self._groups = groups
        self._sizes = sizes
        self._draw = 0

    def save(self) -> dict[str, Any]:
        """Where it stands, as plain values."""
        sizes = None if self._sizes is None else list(self._sizes)
        return {"key": self._key.tolist(), "step": self._step, "groups": list(self._groups), "sizes": sizes,
                "draw": self._draw}  # fmt: skip

    @classmethod
    def load(cls, saved: dict[str, Any]) -> KeyedRng:
        """What `save` gave."""
        found = cls(np.array(saved["key"], np.uint64), saved["step"], saved["groups"], saved["sizes"])
        found._draw = saved["draw"]
        return found

    def _generators(self, n: int) -> list[tuple[np.random.Generator, int]]:
        sizes = (n,) if self._sizes is None else self._sizes
        if sum(sizes) != n:
            raise ArgumentError(f"a draw for {n} rows from a stream over groups of {list(sizes)} rows")
        draw, self._draw = self._draw, self._draw + 1
        # The low counter word stays free for the generator itself: slot i is the i-th number it makes.
        return [
            (np.random.Generator(np.random.Philox(key=self._key, counter=[0, draw, self._step, group])), size)
            for group, size in zip(self._groups, sizes, strict=True)
        ]

    def uniform(self, n: int) -> NDArray[np.float64]:
        """(n,) uniforms in [0, 1), one for each row."""
        return np.concatenate([generator.random(size) for generator, size in self._generators(n)])

    def normal(self, shape: Sequence[int]) -> NDArray[np.float64]:
        """Standard normals of `shape`, whose first dimension is the rows."""
        n, *rest = shape
        return np.concatenate([generator.standard_normal((size, *rest)) for generator, size in self._generators(n)])

    def categorical(self, log_p: NDArray[np.float64]) -> NDArray[np.int64]:
        """(n,) draws, one from each row of the (n, K) log-probabilities, which need not be normalised.

        A row without mass draws 0: the particle is at a dead end, and its increment is -inf.
        """
        cdf = np.cumsum(row_masses(log_p), axis=1)
        threshold = self.uniform(len(log_p)) * cdf[:, -1]
        drawn = (cdf <= threshold[:, None]).sum(axis=1)
        # u * total may round up to the total: the last category with mass is then the one meant.
        return np.minimum(drawn, (cdf < cdf[:, -1:]).sum(axis=1))


class Streams:
    """The source of all random numbers of a run.

    `seed` None draws one from the operating system; it is kept in `.seed`, so that any run can be repeated.
    `group` is the number of the first group: with it one problem of a batch can be repeated alone.
    """

    def __init__(self, seed: int | None = None, *, group: int = 0, path: tuple[int, ...] = ()) -> None:
        number = secrets.randbits(63) if seed is None else as_whole(seed)
        if number is None or number < 0:
            raise ArgumentError(f"seed {quote(seed)}; seeds are integers from 0")
        self.seed = number
        self._group, self._path = group, path
        # As spawn keys, which are padded: the words of a long seed cannot run into the number of the stream.
        self._keys = {
            name: np.random.SeedSequence(self.seed, spawn_key=(*path, number))
            .generate_state(2, np.uint64)
            .astype(np.uint64)
            for name, number in _STREAMS.items()
        }

    def child(self, number: int) -> Streams:
        """An independent source, for the run `number` of an algorithm that makes many."""
        return Streams(self.seed, group=self._group, path=(*self._path, number))

    def at(self, stream: Stream, step: int, sizes: Sequence[int] | None = None, group: int = 0) -> KeyedRng:
        """The numbers of `stream` at `step`: for all groups of `sizes` rows at once, or for one `group`."""
        count = 1 if sizes is None else len(sizes)
        first = self._group + (group if sizes is None else 0)
        return KeyedRng(self._keys[stream], step, range(first, first + count), sizes)
