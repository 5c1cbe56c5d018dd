"""How many trials it takes."""

from __future__ import annotations

from feynkac.programs import distributions as plain
from feynkac.programs.compat.llamppl.distributions.distribution import Plain


class Geometric(Plain):
    """How many trials it takes until one succeeds, each with probability `p`: 1, 2, 3, ..."""

    def __init__(self, p: float) -> None:
        super().__init__(plain.Geometric(p))
        self.p = p

    async def argmax(self, n: int) -> int:
        return n + 1
