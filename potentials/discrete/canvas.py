"""What a potential asks of the canvases of a discrete diffusion."""

from __future__ import annotations

from typing import Any, Protocol, cast, runtime_checkable

from numpy.typing import NDArray

from feynkac.errors import PotentialError
from feynkac.smc.memory import Memory
from feynkac.smc.protocols import Rows


@runtime_checkable
class Canvas(Protocol):
    """N canvases of L tokens, and what their denoiser knows of the finished ones."""

    memory: Memory

    def drawn(self, rows: Rows) -> NDArray[Any]:
        """(R, L) clean tokens drawn from the factorised posterior of unfinished `rows`."""
        ...

    def estimate(self, rows: Rows) -> NDArray[Any]:
        """(R, L) the likeliest clean token at each position."""
        ...

    def completed(self, rows: Rows, tokens: NDArray[Any]) -> Any:
        """A finished population, row `i` of which is row `rows[i]` filled in with `tokens[i]`."""
        ...


def canvas(state: Any, potential: str, instead: str) -> Canvas:
    """`state`, if it is a canvas. Raises PotentialError naming the potential, and what to give `instead`."""
    if not isinstance(state, Canvas):
        raise PotentialError(
            f"'{potential}' looks at the canvas of a discrete diffusion, not at {type(state).__name__}; "
            f"give another model {instead}"
        )
    return cast(Canvas, state)
