"""A resampler that says what it is."""

from __future__ import annotations

from collections.abc import Callable

from feynkac.base.contract import LogW, Rng, Rows


class Named:
    """A function that satisfies `Resample`, with the expression that made it as its name."""

    def __init__(self, name: str, draw: Callable[[LogW, Rng], tuple[Rows | None, LogW]]) -> None:
        self.__name__, self._draw = name, draw

    def __call__(self, log_weight: LogW, rng: Rng, /) -> tuple[Rows | None, LogW]:
        return self._draw(log_weight, rng)

    def __repr__(self) -> str:
        return self.__name__
