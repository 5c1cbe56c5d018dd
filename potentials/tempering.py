"""Potentials that come in gradually: psi_t = psi^lambda_t, with the whole of it at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import Weighed, offers, require
from feynkac.base.contract import LogW, Potential, Rows, Schedule, State
from feynkac.base.errors import ArgumentError, PotentialError, quote
from feynkac.base.numbers import as_real
from feynkac.potentials.base import Factor, log_psi
from feynkac.smc.checks import name_of
from feynkac.smc.weights import effective_sample_size

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.sampling import View

_MEMORY = np.array((0.0, 0.0), dtype=[("lam", np.float64), ("level", np.float64)])
"""The memory of each particle: the last lambda of its group, and its last level in nats."""
HALVINGS = 30


class Scheduled(Factor):
    """A potential whose levels are multiplied by lambda(t)."""

    def __init__(self, base: Potential, schedule: Schedule) -> None:
        self.base = base
        self._schedule = schedule
        self.name = f"tempered({name_of(base)})"

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats: lambda times what the base guesses; before the first step, the lambda of that step."""
        return self._find_lambda(max(view.state.t - 1, 0)) * log_psi(self.base, view)

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats: lambda(t) times the level of the base; -inf stays."""
        return _times(self._find_lambda(t), self.base.level(t, state, rows))

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats: that of the base."""
        return self.base.final(state, rows)

    def _find_lambda(self, t: int) -> float:
        returned = self._schedule(t)
        lam = as_real(returned)
        if lam is None or lam < 0.0:
            raise PotentialError(
                f"'{self.name}' at step {t}: the schedule returned {quote(returned)}; it must be a number of at least 0"
            )
        return lam


class Adaptive(Factor):
    """A potential with lambda as large as the effective sample size allows.

    lambda_t depends on the particles, and yet the evidence stays unbiased: a level, whatever it was computed from, is
    divided out again when the next one replaces it, and the end is exact.
    """

    def __init__(self, base: Potential, ess: float) -> None:
        self.base = base
        self.ess = ess
        self.name = f"tempered({name_of(base)}, ess={ess:g})"

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats: what the base guesses, times the lambda of the step before."""
        import torch

        lam = view.state.memory.array(self, _MEMORY)["lam"][view.rows]
        value = log_psi(self.base, view)
        return torch.as_tensor(lam, device=value.device) * value

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats: lambda_t times the level of the base, with one lambda for each group of particles."""
        weighed = self._require_weights(state)
        base = self.base.level(t, state, rows)
        memory = weighed.memory.array(self, _MEMORY)
        old, new = memory["level"][rows], np.empty(len(rows))
        for g in np.unique(weighed.group[rows]):
            here = np.flatnonzero(weighed.group[rows] == g)
            lam = self._find_largest(weighed.since[rows[here]] - old[here], base[here], memory["lam"][rows[here]].max())
            memory["lam"][rows[here]] = lam
            new[here] = _times(lam, base[here])
        memory["level"][rows] = np.where(new == -np.inf, 0.0, new)
        weighed.since[rows] += new - old
        return new

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats: that of the base."""
        return self.base.final(state, rows)

    def _require_weights(self, state: State) -> Weighed:
        return require(
            state,
            Weighed,
            f"'{self.name}' looks at the weights so far, which {type(state).__name__} does not keep; "
            "give a schedule instead of ess=",
        )

    def _find_largest(self, log_w: LogW, base: LogW, lam: float) -> float:
        """The largest lambda, not below the last, with enough effective particles; by bisection."""

        def enough(candidate: float) -> bool:
            return effective_sample_size(log_w + _times(candidate, base)) >= self.ess * len(base)

        if enough(1.0) or not enough(lam):
            return 1.0 if enough(1.0) else lam
        low, high = lam, 1.0
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if enough(middle) else (low, middle)
        return low


def _times(lam: float, level: NDArray[np.float64]) -> LogW:
    dead = level == -np.inf
    return np.where(dead, -np.inf, lam * np.where(dead, 0.0, level))


def tempered(
    potential: Potential, schedule: Schedule | None = None, *, ess: float | None = None
) -> Scheduled | Adaptive:
    """`potential` with its guesses to the power of lambda_t on the way, and in full at the end.

    `schedule`: t -> lambda_t, for steps t = 0, 1, ... `ess`: instead, the largest lambda_t up to 1, never falling, that
    leaves this fraction of the particles effective, found by bisection on the weights since the last resampling (Zhou,
    Johansen, Aston 2016); the weights of other potentials are not seen. Neither changes the target.

    Raises ArgumentError for what is no potential, for both or none of the two, and for a fraction that is none.
    """
    if not offers(potential, Potential):
        raise ArgumentError(f"tempered({quote(potential)}): give a potential, such as fk.reward(f)")
    if (schedule is None) == (ess is None):
        raise ArgumentError("tempered() takes a schedule t -> lambda, or ess=, a fraction of the particles")
    if schedule is not None:
        if isinstance(schedule, type) or not callable(schedule):
            raise ArgumentError(f"tempered(schedule={quote(schedule)}): give a function t -> lambda of the step")
        return Scheduled(potential, schedule)
    share = as_real(ess)
    if share is None or not 0.0 < share < 1.0:
        raise ArgumentError(f"tempered(ess={quote(ess)}): a fraction of the particles, above 0 and below 1")
    return Adaptive(potential, share)
