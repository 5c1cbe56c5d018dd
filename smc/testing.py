"""Exact tests: walk every random choice of a small run, and add up.

With two or three particles, three steps and three outcomes a run of SMC has 10^2 to 10^5 paths. Their probabilities
are known, so E[Z_hat] = Z and E[sum w f] = Z E[f] hold to rounding, with no tolerance to tune, or the code is wrong.
The idea is Blang's exhaustive random generator (Bouchard-Côté et al. 2022); here also continuous uniforms are
enumerated exactly, by following only the comparisons that the code makes with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_whole
from feynkac.smc.rng import row_masses

T = TypeVar("T")


def enumerate_runs(run: Callable[[Choices], T], *, max_runs: int = 1_000_000) -> Iterator[tuple[float, T]]:
    """Every possible outcome of `run(rng)` with its probability; the probabilities add up to 1.

    `run` takes all its randomness from `rng`, which can stand for `rng.Streams` in `smc.engine.smc` and for any
    `Rng`: `rng.uniform(n)` gives uniforms that may be compared, shifted, scaled and rounded (`u < x`, `a - u`, `u * a`,
    `math.ceil(a - u)`), `rng.categorical(log_p)` gives plain integers. Normals cannot be enumerated.

        def z_hat(rng):
            *_, last = smc(model, potential, n=2, resample=systematic, rng=rng)
            return math.exp(last.log_z)

        assert abs(expectation(z_hat) - z) < 1e-12

    Raises RuntimeError past `max_runs` paths, and for a run that is not a function of its choices; ArgumentError for
    what is no function.
    """
    if not callable(run):
        raise ArgumentError(f"enumerate_runs({quote(run)}): give a function of the random numbers, run(rng)")
    max_runs = read_whole("enumerate_runs: max_runs", max_runs, 1)
    choices = Choices()
    for _ in range(max_runs):
        result = run(choices)
        yield math.exp(choices.log_probability), result
        if not choices.advance():
            return
    raise RuntimeError(f"more than {max_runs} possible runs; use fewer particles, steps or outcomes")


def expectation(run: Callable[[Choices], Any], *, max_runs: int = 1_000_000) -> Any:
    """The exact expectation of a number or an array that `run(rng)` returns."""
    return sum(p * np.asarray(value, dtype=np.float64) for p, value in enumerate_runs(run, max_runs=max_runs))


_IMPURE = (
    "the run took other choices when it was repeated; it must take all its randomness from `rng` "
    "and keep nothing from one run to the next"
)


class Choices:
    """A source of randomness that walks the tree of all choices, depth first."""

    def __init__(self) -> None:
        self._path: list[tuple[int, NDArray[np.float64]]] = []
        self._position = 0

    @property
    def log_probability(self) -> float:
        return float(sum(math.log(p[taken]) for taken, p in self._path))

    def advance(self) -> bool:
        """Move to the next path; False when all have been walked."""
        if self._position != len(self._path):
            raise RuntimeError(_IMPURE)
        self._position = 0
        while self._path:
            taken, p = self._path.pop()
            following = np.flatnonzero(p[taken + 1 :] > 0)
            if len(following):
                self._path.append((taken + 1 + int(following[0]), p))
                return True
        return False

    def choose(self, p: Sequence[float] | NDArray[np.float64]) -> int:
        """An outcome of the distribution `p`, which sums to 1."""
        if self._position == len(self._path):
            p = np.asarray(p, dtype=np.float64)
            self._path.append((int(np.flatnonzero(p > 0)[0]), p))
        taken, before = self._path[self._position]
        if not np.array_equal(before, p):
            raise RuntimeError(_IMPURE)
        self._position += 1
        return taken

    def child(self, number: int) -> Choices:
        return self

    def at(self, stream: str, step: int, sizes: Sequence[int] | None = None, group: int = 0) -> Choices:
        return self

    def uniform(self, n: int) -> NDArray[Any]:
        """(n,) object array of uniforms, each of which branches the walk when it is compared."""
        result = np.empty(n, dtype=object)
        result[:] = [Affine(SymbolicUniform(self)) for _ in range(n)]
        return result

    def normal(self, shape: Sequence[int]) -> NDArray[np.float64]:
        raise NotImplementedError("normal draws have no finite enumeration; test such a model by its closed form")

    def categorical(self, log_p: NDArray[np.float64]) -> NDArray[np.int64]:
        rows = row_masses(log_p)
        return np.array([self.choose(row / row.sum()) if row.any() else 0 for row in rows], dtype=np.int64)


class SymbolicUniform:
    """A uniform of which only an interval is known so far."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.low, self.high = 0.0, 1.0

    def below(self, x: float) -> bool:
        """Whether u < x, deciding it if it is open."""
        if x <= self.low:
            return False
        if x >= self.high:
            return True
        p = (x - self.low) / (self.high - self.low)
        if self.choices.choose([p, 1.0 - p]) == 0:
            self.high = x
            return True
        self.low = x
        return False


class Affine:
    """`shift + slope * u` for a symbolic uniform; comparisons with numbers decide as much of u as they ask."""

    __slots__ = ("shift", "slope", "u")

    def __init__(self, u: SymbolicUniform, slope: float = 1.0, shift: float = 0.0) -> None:
        self.u = u
        self.slope = slope
        self.shift = shift

    def __add__(self, other: float) -> Affine:
        return Affine(self.u, self.slope, self.shift + other)

    __radd__ = __add__

    def __mul__(self, factor: float) -> Affine:
        return Affine(self.u, self.slope * factor, self.shift * factor)

    __rmul__ = __mul__

    def __neg__(self) -> Affine:
        return self * -1.0

    def __sub__(self, other: float) -> Affine:
        return self + (-other)

    def __rsub__(self, other: float) -> Affine:
        return -self + other

    # Points have probability zero, so that < and <= are one for a uniform that is increasing or decreasing.
    def __lt__(self, x: float) -> bool:
        if isinstance(x, Affine):
            raise TypeError("an enumerated uniform can be compared with numbers only, not with another uniform")
        below = self.u.below((x - self.shift) / self.slope)
        return below if self.slope > 0 else not below

    def __le__(self, x: float) -> bool:
        return self < x

    def __gt__(self, x: float) -> bool:
        return not self < x

    def __ge__(self, x: float) -> bool:
        return not self < x

    def __floor__(self) -> int:
        value = math.floor(self.shift) - 1
        while self >= value + 1:
            value += 1
        return value

    def __ceil__(self) -> int:
        return -math.floor(-self)

    def floor(self) -> int:
        return self.__floor__()

    def ceil(self) -> int:
        return self.__ceil__()
