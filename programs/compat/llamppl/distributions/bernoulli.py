"""Yes or no."""

from __future__ import annotations

from feynkac.programs import distributions as plain
from feynkac.programs.compat.llamppl.distributions.distribution import Plain


class Bernoulli(Plain):
    """True with probability `p`."""

    def __init__(self, p: float) -> None:
        super().__init__(plain.Bernoulli(p))
        self.p = p

    async def argmax(self, n: int) -> bool:
        return (self.p > 0.5) == (n == 0)
