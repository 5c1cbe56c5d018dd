"""The tail index of weights."""

from __future__ import annotations

import math

import numpy as np
import pytest

from feynkac.smc.tails import estimate_tail, fit_generalised_pareto, fit_pareto, hill


@pytest.mark.parametrize(
    ("n", "seed", "known"),
    [
        (100, 0, -0.24342547410257917),
        (100, 1, 0.6009268434726555),
        (400, 2, 0.8790376594161903),
        (1000, 3, 1.2685020276360308),
    ],
)
def test_k_hat_is_that_of_arviz(n: int, seed: int, known: float) -> None:
    """What `arviz.psislw` of arviz 0.23.0 gives for log-normal weights of standard deviation 0.5 + seed."""
    log_w = np.random.default_rng(seed).standard_normal(n) * (0.5 + seed)
    assert fit_pareto(log_w) == pytest.approx(known, rel=1e-9)


@pytest.mark.parametrize("k", [0.2, 0.7, 1.5])
def test_a_pareto_law_has_its_own_index(k: float) -> None:
    p = (np.arange(20_000) + 0.5) / 20_000  # quantiles rather than draws: there is no noise
    assert fit_generalised_pareto(np.sort(((1.0 - p) ** -k - 1.0) / k)) == pytest.approx(k, abs=0.02)
    assert hill(-k * np.log1p(-p)) == pytest.approx(k, rel=0.05)


def test_weights_of_a_few_values_have_a_tail_too() -> None:
    """A reward of 4 nats a hit: the excesses tie, which only Hill's estimate can read."""
    log_w = np.array([0.0] * 20 + [4.0] * 10 + [8.0] * 2)
    assert math.isnan(fit_pareto(log_w)) or fit_pareto(log_w) < 0.7
    assert estimate_tail(log_w) > 1.0


def test_what_was_rejected_says_nothing_of_the_upper_tail() -> None:
    for rejected in (-20.0, -1e9, -math.inf):
        log_w = np.array([rejected] * 20 + [0.0] * 12)
        assert not estimate_tail(log_w) > 0.0
    assert math.isnan(estimate_tail(np.array([0.0, 1.0, 2.0]))) and math.isnan(estimate_tail(np.full(5, -math.inf)))
