"""The frontier: the least KL to the base at which any law has a given mean reward.

Among all laws q with E_q[r] = m the nearest to p is p(x) exp(s r(x)) / M(s), M(s) = E_p[exp(s r)], for the strength s
that gives this mean: KL(q || p) >= sup_s (s m - log M(s)) for every q (Donsker and Varadhan 1975), with equality there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from feynkac.rulers.estimates import Estimate, Floats, Sample

UNSEEN = 0.1
"""The share of a tilt that one more text, unseen so far and a step better than the best, may have at most."""
STEEPEST = 40.0
"""Nats between the best and the worst text from which all but the best have no weight in a float."""
POINTS = 21
"""Mean rewards, evenly spaced from the base's to each end, at which the frontier is traced."""
HALVINGS = 60
"""Each halves the interval in which a strength is sought."""


@dataclass(frozen=True)
class Tilt:
    """One point of the frontier: the law exp(strength * reward) * base."""

    strength: float
    """Per unit of the reward."""
    reward: Estimate
    """Its mean reward."""
    kl: Estimate
    """KL(it || base), nats a text."""
    ess: float
    """The base's texts that it rests on, in effect."""


class Frontier:
    """The tilts of a base, as far as texts of the base tell.

    `rewards`: (N,) of these texts. `unseen`: the probability of better texts that may have been missed, by default that
    of one draw. On either side the frontier ends where such texts could decide; 0 where there are none.
    """

    def __init__(self, sample: Sample, rewards: Floats, unseen: float | None = None) -> None:
        self._sample, self._rewards = sample, rewards
        self._unseen = 1.0 / sample.ess if unseen is None else unseen
        self.strengths = -self._find_end(-1.0), self._find_end(1.0)
        """The least and the largest strength."""

    def find_point(self, strength: float) -> Tilt:
        """The point of the frontier at a strength."""
        r, tilted = self._rewards, self._sample.tilt(strength * self._rewards)
        reward = tilted.find_mean(r)
        before = self._sample.find_log_mean_exp(strength * r)
        of_mean, of_total = tilted.weights * (r - reward.value), tilted.weights - self._sample.weights
        kl = self._sample.estimate(strength * reward.value - before.value, strength * of_mean - of_total)
        return Tilt(strength, reward, kl, tilted.ess)

    def trace(self) -> list[Tilt]:
        """Points from one end to the other, the base among them."""
        low, here, high = (self._find_mean(s) for s in (self.strengths[0], 0.0, self.strengths[1]))
        below, above = np.linspace(low, here, POINTS)[:-1], np.linspace(here, high, POINTS)[1:]
        strengths = [*map(self._find_strength, below), 0.0, *map(self._find_strength, above)]
        return [self.find_point(s) for s in dict.fromkeys(strengths)]

    def find_least(self, reward: Estimate) -> tuple[Estimate, bool]:
        """The least KL of any law with this mean reward, in nats, and whether the frontier reaches there.

        Where it does not, the number is a bound from below all the same: that of its last strength.
        """
        low, high = map(self._find_mean, self.strengths)
        s = self._find_strength(reward.value)
        before = self._sample.find_log_mean_exp(s * self._rewards)
        # Both are first-order: at the best strength the bound does not move with it.
        se = math.hypot(s * reward.se if s else 0.0, before.se)
        least = Estimate(s * reward.value - before.value, se, min(reward.parts, before.parts))
        return least, low <= reward.value <= high

    def _find_strength(self, reward: float) -> float:
        """The strength of this mean reward, or that of the nearer end."""
        low, high = self.strengths
        for _ in range(HALVINGS):
            middle = (low + high) / 2.0
            low, high = (middle, high) if self._find_mean(middle) < reward else (low, middle)
        return (low + high) / 2.0

    def _find_mean(self, strength: float) -> float:
        return float(self._sample.tilt(strength * self._rewards).weights @ self._rewards)

    def _find_end(self, sign: float) -> float:
        """How far the strength may go in a direction."""
        values = np.unique(sign * self._rewards)
        if len(values) == 1:
            return 0.0
        beyond, low, high = 2.0 * values[-1] - values[-2], 0.0, STEEPEST / float(np.ptp(values))

        def is_told(strength: float) -> bool:
            total = self._sample.find_log_mean_exp(sign * strength * self._rewards).value
            return self._unseen * math.exp(strength * beyond - total) <= UNSEEN

        if is_told(high):
            return high
        for _ in range(HALVINGS):
            middle = (low + high) / 2.0
            low, high = (middle, high) if is_told(middle) else (low, middle)
        return low
