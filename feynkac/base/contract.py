"""The contract: all that the author of a model, a potential or a resampler must know.

What an object may offer beyond it is in `feynkac.base.capabilities`.

One row is one particle. Shapes: `N` particles in the population, `R` rows asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.int64]
"""(N,) or (R,) row indices. As a parent map, `rows[i]` is the parent of new row `i`."""
LogW: TypeAlias = NDArray[np.float64]
"""Log-weights in nats, float64 on the host, never normalised."""
Mask: TypeAlias = NDArray[np.bool_]


class Rng(Protocol):
    """The random numbers of one stream at one step; each call is a fresh draw, keyed by slot.

    Entry `i` of a draw depends on (seed, stream, group, step, slot of `i`) and on nothing else,
    so a result depends neither on the size of the batch nor on chunking or threads.
    """

    def uniform(self, n: int) -> NDArray[Any]:
        """(n,) uniforms in [0, 1), one for each row. Compare them; do no other arithmetic than `a - u` and `u + a`."""
        ...

    def normal(self, shape: Sequence[int]) -> NDArray[np.float64]:
        """Standard normals of a shape whose first dimension is the rows."""
        ...

    def categorical(self, log_p: NDArray[np.float64]) -> NDArray[np.int64]:
        """(n,) draws, one from each row of the (n, K) log-probabilities, which need not be normalised.

        A row without mass draws 0: the particle is at a dead end, and its increment is -inf.
        """
        ...


class State(Protocol):
    """All that the particles own: tokens or latents, solver memory, caches, a user's locals."""

    def __len__(self) -> int: ...

    def fork(self, rows: Rows) -> State:
        """The population whose row `i` continues from `rows[i]`.

        Children share nothing mutable. A survivor keeps its slot: `rows[i] == i` for it, so only the other rows
        need copying.
        """
        ...


# Below, states are Any where they are passed in: a model and its potentials may name their own type of state.


@runtime_checkable
class Model(Protocol):
    """A reference law p with a way to sample from it, properly weighted."""

    def init(self, n: int, rng: Rng) -> State: ...

    def step(self, t: int, state: Any, rng: Rng) -> tuple[State, LogW]:
        """Extend every unfinished row and return the (N,) log increments, in nats.

        Proper weighting is the whole contract: E_q[exp(inc) f(x')] = E_p[f(x')] for every f
        (Naesseth, Lindsten, Schön 2015, Definition 1). Finished rows stay as they are, with increment 0.
        """
        ...

    def done(self, state: Any) -> Mask:
        """(N,) which rows are finished; a finished row stays finished."""
        ...


@runtime_checkable
class Potential(Protocol):
    """A weight on whole samples, with guesses on the way: the target is p(x) exp(final(x))."""

    def level(self, t: int, state: Any, rows: Rows) -> LogW:
        """(R,) log psi_t of the unfinished `rows` after step `t`: any guess of the log-weight still to come.

        The engine takes differences, so a finite level never changes the target. -inf is a promise that no
        continuation of the row has mass: the row dies for good.
        """
        ...

    def final(self, state: Any, rows: Rows) -> LogW:
        """(R,) log-weight of `rows` that have just finished. This alone defines the target."""
        ...


class Resample(Protocol):
    """A properly weighted selection of rows."""

    def __call__(self, log_weight: LogW, rng: Rng, /) -> tuple[Rows | None, LogW]:
        """Parents (M,) and log-weights (M,) with E[sum_k exp(w_k) 1{rows_k = i}] = exp(log_weight_i) for every i.

        `None` for the rows: nothing moved, and the log-weights are returned as they came.
        """
        ...


class Move(Protocol):
    """Rejuvenation just before step `t`: leaves the current target p(x_{<t}) psi_{t-1} invariant.

    For every row by itself, whatever the other rows are: a move that is made only where the weights of the population
    have some property, such as just after they have become uneven enough to be resampled, is a bias.
    """

    def __call__(self, t: int, state: Any, level: LogW, alive: Mask, rng: Rng, /) -> tuple[State, LogW]:
        """The moved population and its new (N,) levels; finished rows stay as they are.

        `alive`: (N,) rows with weight; the others may stay as they are.
        """
        ...


Schedule: TypeAlias = Callable[[int], float]
