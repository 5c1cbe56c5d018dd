"""Potentials that come in gradually: psi_t = psi^lambda_t, with the whole of it at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import Weighed, offers, require
from feynkac.base.contract import LogW, Potential, Rows, Schedule, State
from feynkac.base.errors import ArgumentError, PotentialError, quote
from feynkac.base.numbers import as_real
from feynkac.base.sampling import TellsNoise
from feynkac.base.words import is_word
from feynkac.potentials.base import Factor, log_psi
from feynkac.smc.checks import name_of
from feynkac.smc.weights import effective_sample_size

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.sampling import View

Course: TypeAlias = Schedule | Literal["signal"]
"""t -> lambda_t, or what is known of the sample at the noise level of the latents."""
_MEMORY = np.array((0.0, 0.0), dtype=[("lam", np.float64), ("level", np.float64)])
"""The memory of each particle: the last lambda of its group, and its last level in nats."""
HALVINGS = 30


class Scheduled(Factor):
    """A potential whose levels are multiplied by lambda(t)."""

    def __init__(self, base: Potential, schedule: Course) -> None:
        self.base = base
        self._schedule: Course = schedule
        self.name = f"tempered({name_of(base)}{_tell(schedule)})"

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats: lambda times what the base guesses; before the first step, the lambda of that step."""
        return _find_lambda(self, self._schedule, max(view.state.t - 1, 0), view.state) * log_psi(self.base, view)

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats: lambda(t) times the level of the base; -inf stays."""
        return _times(_find_lambda(self, self._schedule, t, state), self.base.level(t, state, rows))

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats: that of the base."""
        return self.base.final(state, rows)


class Adaptive(Factor):
    """A potential with lambda as large as the effective sample size allows, and as the schedule says at least.

    lambda_t depends on the particles, and yet the evidence stays unbiased: a level, whatever it was computed from, is
    divided out again when the next one replaces it, and the end is exact.
    """

    adapts = True

    def __init__(self, base: Potential, ess: float, schedule: Course | None = None) -> None:
        self.base = base
        self.ess = ess
        self._schedule: Course | None = schedule
        self.name = f"tempered({name_of(base)}{_tell(schedule)}, ess={ess:g})"

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats: what the base guesses, times the lambda of the step before."""
        import torch

        least = self._find_least(max(view.state.t - 1, 0), view.state)
        lam = np.maximum(view.state.memory.array(self, _MEMORY)["lam"][view.rows], least)
        value = log_psi(self.base, view)
        return torch.as_tensor(lam, device=value.device) * value

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats: lambda_t times the level of the base, with one lambda for each group of particles."""
        weighed = self._require_weights(state)
        base, least = self.base.level(t, state, rows), self._find_least(t, state)
        memory = weighed.memory.array(self, _MEMORY)
        old, new = memory["level"][rows], np.empty(len(rows))
        for g in np.unique(weighed.group[rows]):
            here = np.flatnonzero(weighed.group[rows] == g)
            last = max(memory["lam"][rows[here]].max(), least)
            lam = self._find_largest(weighed.since[rows[here]] - old[here], base[here], last)
            memory["lam"][rows[here]] = lam
            new[here] = _times(lam, base[here])
        memory["level"][rows] = np.where(new == -np.inf, 0.0, new)
        weighed.since[rows] += new - old
        return new

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats: that of the base."""
        return self.base.final(state, rows)

    def _find_least(self, t: int, state: object) -> float:
        return 0.0 if self._schedule is None else _find_lambda(self, self._schedule, t, state)

    def _require_weights(self, state: State) -> Weighed:
        return require(
            state,
            Weighed,
            f"'{self.name}' looks at the weights so far, which {type(state).__name__} does not keep; "
            "give a schedule instead of ess=",
        )

    def _find_largest(self, log_w: LogW, base: LogW, lam: float) -> float:
        """The largest lambda, not below `lam`, with enough effective particles; by bisection."""

        def enough(candidate: float) -> bool:
            return effective_sample_size(log_w + _times(candidate, base)) >= self.ess * len(base)

        if enough(1.0):
            return max(lam, 1.0)
        if lam >= 1.0 or not enough(lam):
            return lam
        low, high = lam, 1.0
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if enough(middle) else (low, middle)
        return low


def _times(lam: float, level: NDArray[np.float64]) -> LogW:
    dead = level == -np.inf
    return np.where(dead, -np.inf, lam * np.where(dead, 0.0, level))


def _tell(schedule: Course | None) -> str:
    return f", {schedule}" if isinstance(schedule, str) else ""


def _find_lambda(potential: Factor, schedule: Course, t: int, state: object) -> float:
    """lambda after step `t`, at the noise level of `state`. Raises PotentialError."""
    if isinstance(schedule, str):
        return require(
            state,
            TellsNoise,
            f"'{potential.name}' goes by the noise of latents, and {type(state).__name__} has none; "
            "give a function t -> lambda",
        ).noise_level.signal
    returned = schedule(t)
    lam = as_real(returned)
    if lam is None or lam < 0.0:
        raise PotentialError(
            f"'{potential.name}' at step {t}: the schedule returned {quote(returned)}; "
            "it must be a number of at least 0"
        )
    return lam


def tempered(potential: Potential, schedule: Course | None = None, *, ess: float | None = None) -> Scheduled | Adaptive:
    """`potential` with its guesses to the power of lambda_t on the way, and in full at the end.

        fk.steer(model, tempered(reward, "signal", ess=0.9))        # for strong rewards of latents

    `schedule`: t -> lambda_t, for steps t = 0, 1, ...; or "signal", the correlation alpha / sqrt(alpha^2 + sigma^2) of
    a latent with its sample, where samples have variance 1: a network's error in the sample grows with sigma / alpha,
    so that its first guesses are mostly error. `ess`: the largest lambda_t up to 1, never falling, that leaves this
    fraction of the particles effective, found by bisection on the weights since the last resampling (Zhou, Johansen,
    Aston 2016); the weights of other potentials are not seen. With both, the larger of the two: guesses that tell
    particles apart but little come in at once, and what would choose among them comes in by the schedule. None of it
    changes the target.

    Raises ArgumentError for what is no potential, for neither of the two, for a schedule that is none, and for a
    fraction that is none; PotentialError, when it is used, for "signal" where there are no latents.
    """
    if not offers(potential, Potential):
        raise ArgumentError(f"tempered({quote(potential)}): give a potential, such as fk.reward(f)")
    if schedule is None and ess is None:
        raise ArgumentError("tempered() takes a schedule t -> lambda or 'signal', or ess=, a fraction of the particles")
    if schedule is not None and not _is_course(schedule):
        raise ArgumentError(
            f"tempered(schedule={quote(schedule)}): give a function t -> lambda of the step, or 'signal'"
        )
    if ess is None:
        assert schedule is not None
        return Scheduled(potential, schedule)
    share = as_real(ess)
    if share is None or not 0.0 < share < 1.0:
        raise ArgumentError(f"tempered(ess={quote(ess)}): a fraction of the particles, above 0 and below 1")
    return Adaptive(potential, share, schedule)


def _is_course(schedule: object) -> bool:
    return is_word(schedule, ("signal",)) or (callable(schedule) and not isinstance(schedule, type))
