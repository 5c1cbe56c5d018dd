"""Optional capabilities of samplers of latents, as those of diffusion are; see `feynkac.base.capabilities`.

A latent at a noise level is x = alpha x0 + sigma eps. Shapes: `N` particles in the population, `R` rows asked about,
`...` the shape of one sample.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Rows
from feynkac.base.errors import ArgumentError
from feynkac.base.memory import Memory
from feynkac.base.numbers import hold_the_same, read_finite, take_only

if TYPE_CHECKING:
    from torch import Tensor


LOUDEST = 1e100
"""The largest alpha and sigma: variances are their squares, and products of those."""


@dataclass(frozen=True, eq=False)
class NoiseLevel:
    """How much noise there is: x = alpha x0 + sigma eps.

    `time` is what the network is told, in its own units; levels of which it is unknown can be equal. Raises
    ArgumentError unless all are finite (but for a time that is unknown), alpha and sigma are at least 0, and one of
    them is positive.
    """

    alpha: float
    sigma: float
    time: float = math.nan

    def __post_init__(self) -> None:
        for name in ("alpha", "sigma"):  # numbers of arrays and tensors would spread into arithmetic
            object.__setattr__(self, name, read_finite(f"NoiseLevel: {name}", getattr(self, name)))
        time = take_only(self.time)
        unknown = isinstance(time, float) and math.isnan(time)
        object.__setattr__(self, "time", math.nan if unknown else read_finite("NoiseLevel: time", time))
        if not (self.alpha >= 0.0 and self.sigma >= 0.0 and self.alpha + self.sigma > 0.0):
            raise ArgumentError(f"{self}; alpha and sigma are at least 0, and one of them is positive")
        if max(self.alpha, self.sigma) > LOUDEST:
            raise ArgumentError(f"{self}; alpha and sigma are at most {LOUDEST:g}, so that their squares are numbers")

    def __eq__(self, other: object) -> bool:
        return hold_the_same(self, other)

    def __hash__(self) -> int:
        return hash((self.alpha, self.sigma, None if math.isnan(self.time) else self.time))

    def variance(self, prior: float) -> float:
        """The variance of one coordinate of x0 given x, if that coordinate were Gaussian with variance `prior`."""
        if self.sigma == 0.0:
            return 0.0
        return self.sigma**2 * prior / (self.alpha**2 * prior + self.sigma**2)

    @property
    def signal(self) -> float:
        """The correlation of x with x0, if that has variance 1: 0 where x is all noise, and 1 where it has none."""
        return self.alpha / math.hypot(self.alpha, self.sigma)


# --- of states


@runtime_checkable
class Estimates(Protocol):
    """A state of latents that estimates its clean samples on the way. Without it: guesses about these refuse."""

    memory: Memory

    @property
    def t(self) -> int:
        """Transitions taken."""
        ...

    def look(self) -> Any:
        """Call the network for the noise level of the latents, unless that is done; a guided proposal then guesses."""
        ...

    def views(self, rows: Rows) -> Iterator[View]:
        """What a guess may look at of unfinished `rows`, in batches, without graphs."""
        ...

    def recall(self, key: Hashable) -> NDArray[np.float64]:
        """(N,) numbers about the latents at this noise level, stored under `key`; nan where there is none.

        Write into the array to store a number.
        """
        ...


@runtime_checkable
class TellsNoise(Protocol):
    """A state of latents that are at one noise level. Without it: `tempered(..., "signal")` refuses."""

    @property
    def noise_level(self) -> NoiseLevel:
        """The noise level of the latents."""
        ...


class View(Protocol):
    """What a guess may look at: `R` unfinished rows of a state that `Estimates`."""

    @property
    def state(self) -> Estimates: ...

    @property
    def rows(self) -> Rows:
        """(R,) the rows looked at."""
        ...

    @property
    def latent(self) -> Tensor:
        """(R, ...) the latents as they are, with their noise."""
        ...

    @property
    def estimate(self) -> Tensor:
        """(R, ...) the clean latents expected, as the preview shows them; with a graph where a gradient is wanted."""
        ...

    @property
    def noise_level(self) -> NoiseLevel:
        """The noise level of the latents."""
        ...

    def estimate_variance(self) -> Tensor:
        """(R,) float64: the variance of x0 given the latent, for one coordinate."""
        ...


# --- of proposals


@runtime_checkable
class NeedsGraph(Protocol):
    """A proposal that may take gradients through the denoiser. Without it: no graph is kept while the network runs.

    A pipeline refuses it where its network gives no gradient.
    """

    @property
    def needs_graph(self) -> bool:
        """Whether it takes them."""
        ...
