"""Estimates from weighted draws: their errors are those that repetition shows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from feynkac.base.errors import ArgumentError
from feynkac.rulers.estimates import Estimate, Sample
from feynkac.rulers.frontier import Frontier

RUNS, N = 500, 200


def estimates(rng, islands):
    """Draws of a standard normal, reward x, weighted for exp(x / 2): KL = 1 / 8, and the frontier at 1 / 4."""
    x, level = rng.normal(size=N), rng.normal(size=islands)
    part = np.arange(N) // (N // islands)
    noise = 0.2 * level[part] - 0.02  # an island's weights go up and down together
    sample = Sample(0.5 * x + noise, part, islands)
    log_z = math.log(np.exp(sample.log_weight).mean())
    plain = Sample(np.zeros(N), np.arange(N), N)
    tilt = Frontier(plain, x).find_point(0.5)
    return {
        "mean": (sample.find_mean(x), 0.5),
        "ratio": (sample.find_ratio(x, 1.0 + x**2), 0.5 / 2.25),
        "divergence": (sample.find_divergence(0.5 * x, log_z), 0.125),
        "log mean": (plain.find_log_mean_exp(0.5 * x), 0.125),
        "tilt's mean": (tilt.reward, 0.5),
        "tilt's divergence": (tilt.kl, 0.125),
    }


def test_errors_are_what_repetition_shows() -> None:
    """Standard scores have mean 0 and variance 1; of six estimates some fails by chance about once in 10^5 seeds.

    Means of 500 may be 5 standard errors off, and as much again for the bias of a ratio, of order 1 / 100 islands.
    """
    rng = np.random.default_rng(0)
    runs = [estimates(rng, 100) for _ in range(RUNS)]
    for name in runs[0]:
        score = np.array([(run[name][0].value - run[name][1]) / run[name][0].se for run in runs])
        assert abs(score.mean()) < 5.0 / math.sqrt(RUNS) + 0.1, name
        assert abs(score.var() - 1.0) < 5.0 * math.sqrt(2.0 / RUNS) + 0.06, name


def test_the_evidence_s_error_is_part_of_the_divergence_s() -> None:
    """Where all ratios are equal, as of a constraint, the divergence is as uncertain as the evidence."""
    sample = Sample(np.log([1.0, 1.0, 2.0, 2.0]), np.array([0, 0, 1, 1]), 2)
    found = sample.find_divergence(np.zeros(4), math.log(1.5))
    assert found.value == -math.log(1.5)
    assert found.se == pytest.approx(np.std([2.0 / 3.0, 4.0 / 3.0], ddof=1) / math.sqrt(2))


def test_parts_that_died_count_among_the_errors() -> None:
    """Of five draws two have weight: their evidence is that of a coin, se(log Z) = sqrt((1 - p) / (p (n - 1)))."""
    found = Sample(np.zeros(2), np.array([1, 4]), 5).find_divergence(np.zeros(2), math.log(0.4))
    assert found.se == pytest.approx(math.sqrt(0.6 / 0.4 / 4)) and found.parts == 5


def test_an_estimate_of_one_part_has_no_error() -> None:
    found = Sample(np.zeros(3), np.zeros(3, np.int64), 1).find_mean(np.arange(3.0))
    assert found.value == pytest.approx(1.0) and math.isnan(found.se) and found.parts == 1
    assert found.interval() == (-math.inf, math.inf)


def test_intervals_are_those_of_students_t() -> None:
    assert Estimate(1.0, 0.5, 10).interval() == pytest.approx((1 - 0.5 * 2.262157, 1 + 0.5 * 2.262157), abs=1e-6)
    assert Estimate(2.0, 0.0, 1).interval() == (2.0, 2.0)
    with pytest.raises(ArgumentError, match="confidence"):
        Estimate(1.0, 0.5, 10).interval(1.0)


def test_what_the_base_cannot_write_is_infinitely_far() -> None:
    found = Sample(np.zeros(2), np.arange(2), 2).find_divergence(np.array([0.5, np.inf]), None)
    assert found.value == math.inf and math.isnan(found.se)
