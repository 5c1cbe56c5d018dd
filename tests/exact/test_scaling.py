"""The rate and the honesty of the evidence: N Var(log Z) is flat in N, and standard errors cover as they claim.

The truth is the forward algorithm of a hidden Markov model. Replicates are the groups of one batch. Every test states
how often it would fail by chance if the seed were free: |z| > 4.42 happens once in 100 000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from feynkac.base.errors import ArgumentError
from feynkac.smc.engine import Step, smc
from feynkac.smc.evidence import evidence
from feynkac.smc.resample import adaptive, islands, multinomial, never, ssp, systematic
from feynkac.smc.rng import Streams
from feynkac.smc.weights import log_sum_exp

RARE = 4.42
START = np.array([0.6, 0.3, 0.1])
MOVE = np.array([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.2, 0.2, 0.6]])
EMIT = np.array([[0.6, 0.4], [0.35, 0.65], [0.15, 0.85]])
SEEN = np.array([0, 1, 1, 0, 1, 1, 1, 0])


@dataclass
class Hidden:
    x: np.ndarray
    log_likelihood: np.ndarray
    t: int = -1

    def __len__(self) -> int:
        return len(self.x)

    def fork(self, rows: np.ndarray) -> Hidden:
        return Hidden(self.x[rows], self.log_likelihood[rows], self.t)


class HMM:
    """The bootstrap filter: states from their own law, observations as levels."""

    def init(self, n: int, rng: Any) -> Hidden:
        return Hidden(np.zeros(n, dtype=np.int64), np.zeros(n))

    def step(self, t: int, state: Hidden, rng: Any) -> tuple[Hidden, np.ndarray]:
        law = np.broadcast_to(START, (len(state), 3)) if t == 0 else MOVE[state.x]
        x = rng.categorical(np.log(law))
        return Hidden(x, state.log_likelihood + np.log(EMIT[x, SEEN[t]]), t), np.zeros(len(state))

    def done(self, state: Hidden) -> np.ndarray:
        return np.full(len(state), state.t == len(SEEN) - 1)

    def level(self, t: int, state: Hidden, rows: np.ndarray) -> np.ndarray:
        return state.log_likelihood[rows]

    def final(self, state: Hidden, rows: np.ndarray) -> np.ndarray:
        return state.log_likelihood[rows]


def called(scheme: Any) -> str:
    return scheme.__name__


def forward() -> float:
    """log Z by the forward algorithm."""
    alpha = START * EMIT[:, SEEN[0]]
    for seen in SEEN[1:]:
        alpha = (alpha @ MOVE) * EMIT[:, seen]
    return math.log(alpha.sum())


def replicates(resample: Any, n: int, count: int, seed: int = 0) -> list[Step]:
    model = HMM()
    *_, last = smc(model, model, n=[n] * count, resample=resample, rng=Streams(seed))
    return [last.group(g) for g in range(count)]


@pytest.mark.parametrize(
    "resample", [never, multinomial, systematic, adaptive(ssp, 0.5), islands(systematic, 4)], ids=called
)
def test_the_evidence_is_unbiased(resample: Any) -> None:
    ratio = np.exp([step.log_z - forward() for step in replicates(resample, 32, 500)])
    z = (ratio.mean() - 1) / (ratio.std(ddof=1) / math.sqrt(len(ratio)))
    assert abs(z) < RARE


def assert_flat(resample: Any) -> None:
    """log of the ratio of two sample variances of normal samples: variance 2/(R-1) each."""
    count, sizes = 400, (32, 512)
    scaled = [n * np.var([step.log_z for step in replicates(resample, n, count, seed=n)], ddof=1) for n in sizes]
    z = math.log(scaled[1] / scaled[0]) / math.sqrt(2 * 2 / (count - 1))
    assert abs(z) < RARE, f"N Var(log Z) = {scaled[0]:.2f} and {scaled[1]:.2f}, z = {z:.1f}"


@pytest.mark.parametrize("resample", [never, multinomial, adaptive(systematic, 0.9)], ids=called)
def test_n_times_the_variance_is_flat_in_n(resample: Any) -> None:
    assert_flat(resample)


def test_mutant_with_a_floor_under_its_variance() -> None:
    def one_parent(log_weight: np.ndarray, rng: Any) -> Any:
        """All rows become children of a single draw: unbiased, yet more particles are of no use."""
        n = len(log_weight)
        rows, _ = multinomial(log_weight, rng, 1)
        return np.repeat(rows, n), np.full(n, log_sum_exp(log_weight) - math.log(n))

    with pytest.raises(AssertionError, match="z = "):
        assert_flat(one_parent)


# --- standard errors ------------------------------------------------------------------------------------------------

STUDENT_7 = 2.364624
"""The 0.975 quantile of Student's t with 7 degrees of freedom; that of the normal is 1.959964."""


def assert_covers(steps: list[Step], quantile: float, **known: Any) -> None:
    """95% intervals hold the truth in 95% of the replicates, but for binomial noise."""
    pairs = [evidence(step.log_weight, **known) for step in steps]
    covered = np.mean([abs(log_z - forward()) < quantile * se for log_z, se in pairs])
    z = (covered - 0.95) / math.sqrt(0.95 * 0.05 / len(steps))
    assert abs(z) < RARE, f"95% intervals cover {covered:.1%} of {len(steps)}"


def test_islands_cover_at_the_nominal_rate() -> None:
    steps = replicates(islands(adaptive(systematic, 0.9), 8), 8 * 32, 500)
    assert_covers(steps, STUDENT_7, islands=8)


def test_without_resampling_every_particle_is_an_island() -> None:
    assert_covers(replicates(never, 512, 500), 1.959964, resampled=False)


def test_mutants_of_the_standard_error_are_caught() -> None:
    steps = replicates(multinomial, 256, 500)
    # One population, taken for eight that never met, and for 256: the spread within it is not that of runs.
    for known in ({"islands": 8}, {"islands": 256}):
        with pytest.raises(AssertionError, match="95% intervals cover"):
            assert_covers(steps, STUDENT_7, **known)


def test_standard_error_of_given_islands() -> None:
    log_weight = np.log([1.0, 1.0, 2.0, 2.0, 1.0, 2.0])
    log_z, se = evidence(log_weight, 3)
    z = 3 * np.array([2.0, 4.0, 3.0])  # each island's own estimate of Z
    assert log_z == pytest.approx(math.log(9.0)) == pytest.approx(math.log(z.mean()))
    assert se == pytest.approx(z.std(ddof=1) / math.sqrt(3) / z.mean())
    log_weight[:2] = -np.inf  # an island that died out has estimated 0
    z[0] = 0.0
    assert evidence(log_weight, 3) == pytest.approx((math.log(z.mean()), z.std(ddof=1) / math.sqrt(3) / z.mean()))


def test_what_cannot_be_known_is_nan() -> None:
    assert math.isnan(evidence(np.zeros(4))[1])
    assert math.isnan(evidence(np.zeros(1), resampled=False)[1])
    assert evidence(np.zeros(4), resampled=False) == (pytest.approx(math.log(4)), 0.0)
    log_z, se = evidence(np.full(4, -np.inf), 2)
    assert log_z == -math.inf and math.isnan(se)
    with pytest.raises(ArgumentError, match="3 islands of 4 particles"):
        evidence(np.zeros(4), 3)
