"""What a potential asks of the latents of a sampler, and of a view of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, Protocol

from numpy.typing import NDArray
from torch import Tensor

from feynkac.base.contract import Rows
from feynkac.base.memory import Memory


class Level(Protocol):
    """How much noise there is: a latent is x = alpha x0 + sigma eps."""

    @property
    def alpha(self) -> float: ...

    @property
    def sigma(self) -> float: ...

    @property
    def time(self) -> float:
        """What the network is told, in its own units."""
        ...

    def variance(self, prior: float) -> float:
        """The variance of one coordinate of x0 given x, if that coordinate were Gaussian with variance `prior`."""
        ...


class Latents(Protocol):
    """N latents at one level."""

    memory: Memory

    @property
    def t(self) -> int:
        """Transitions taken."""
        ...

    @property
    def prediction(self) -> Any:
        """What the network says of the latents at this level; asking makes a guided proposal guess, too."""
        ...

    def views(self, rows: Rows) -> Iterator[View]:
        """What a guess may look at of unfinished `rows`, in batches, without graphs."""
        ...

    def outputs(self, rows: Rows) -> Iterator[tuple[Rows, Tensor]]:
        """Finished `rows` in batches, each with its decoded samples (R, ...)."""
        ...

    def kept(self, key: Hashable) -> NDArray[Any]:
        """(N,) numbers about the latents at this level under `key`, nan where none was computed."""
        ...


class View(Protocol):
    """What a guess may look at: `R` unfinished rows."""

    @property
    def state(self) -> Latents: ...

    @property
    def rows(self) -> Rows:
        """(R,) the rows looked at."""
        ...

    @property
    def estimate(self) -> Tensor:
        """(R, ...) the clean latents expected, as the preview shows them; with a graph where a gradient is wanted."""
        ...

    @property
    def level(self) -> Level: ...

    @property
    def variance(self) -> Tensor:
        """(R,) float64: the variance of x0 given the latent, for one coordinate."""
        ...
