"""Random choices for some rows of a population, so that what a row draws depends on itself alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Mask, Rng, Rows


class Draws:
    """The numbers of a population of `n`, for those of its rows that need any.

    The `k`-th draw of a row is always its own: it does not depend on how many draws other rows need.
    """

    def __init__(self, rng: Rng, n: int, rows: Rows) -> None:
        self._rng = rng
        self._n = n
        self.rows = rows

    def below(self, p: NDArray[np.float64], asked: Mask) -> Mask:
        """(R,) whether a uniform falls below `p` (R,); False, without a draw being looked at, where not `asked`."""
        u = self._rng.uniform(self._n)
        result = np.zeros(len(self.rows), dtype=np.bool_)
        result[asked] = u[self.rows[asked]] < p[asked]
        return result

    def told(self, asked: Rows) -> Rows:
        """(A,) the tokens that the `asked` ones among the rows have to draw; -1 for those that are free to."""
        return np.full(len(asked), -1)

    def categorical(self, log_p: NDArray[np.float64], asked: Rows) -> NDArray[np.int64]:
        """(A,) tokens drawn from the (A, C) log-probabilities, for the `asked` ones among the rows."""
        return self.pick(settle(log_p, self.told(asked)), asked)

    def pick(self, log_p: NDArray[np.float64], asked: Rows) -> NDArray[np.int64]:
        """(A,) draws from the (A, C) log-probabilities of anything, whatever tokens are told."""
        every = np.full((self._n, log_p.shape[1]), -np.inf)
        every[:, 0] = 0.0  # a row that does not ask has one outcome only
        every[self.rows[asked]] = log_p
        return self._rng.categorical(every)[self.rows[asked]]

    def fill(self, tokens: NDArray[np.int64], positions: Mask, log_p: NDArray[np.float64]) -> None:
        """Write into `tokens` (R, L), at the `positions` (R, L), draws from the laws `log_p` (R, L, C)."""
        for rows, places in self.each(positions):
            tokens[rows, places] = self.categorical(log_p[rows, places], rows)

    def each(self, positions: Mask, numbers: int = 1) -> Iterator[tuple[Rows, Rows]]:
        """The first of the `positions` (R, L) of each row that has any, then the second, and so on.

        For each there are as many draws as `numbers`. Afterwards that many have been used for all L positions, however
        many were needed, so that what follows does not depend on it.
        """
        rank = np.cumsum(positions, axis=1) - 1
        rows, places = np.nonzero(positions)
        order = rank[rows, places]
        most = int(order.max(initial=-1)) + 1
        for r in range(most):
            yield rows[order == r], places[order == r]
        for _ in range(numbers * (positions.shape[1] - most)):
            self._rng.uniform(self._n)


def settle(log_p: NDArray[np.float64], told: Rows) -> NDArray[np.float64]:
    """The laws (A, C), those certain that have to draw the category `told` (A,); -1 for the others."""
    here = np.flatnonzero(told >= 0)
    if not len(here):
        return log_p
    log_p = log_p.copy()
    log_p[here] = -np.inf
    log_p[here, told[here]] = 0.0
    return log_p
