"""The frontier: closed forms, and where the base's texts no longer tell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from feynkac.rulers.estimates import Estimate, Sample
from feynkac.rulers.frontier import UNSEEN, Frontier


def sure(value: float) -> Estimate:
    return Estimate(value, 0.0, 100)


def coins(n: int = 1000, share: float = 0.3) -> Frontier:
    return Frontier(Sample(np.zeros(n), np.arange(n), n), (np.arange(n) < share * n).astype(float))


@pytest.mark.parametrize("mean", [0.1, 0.25, 0.3, 0.5, 0.7])
def test_of_a_coin_the_frontier_is_the_divergence_of_coins(mean) -> None:
    found, reached = coins().find_least(sure(mean))
    kl = mean * math.log(mean / 0.3) + (1 - mean) * math.log((1 - mean) / 0.7)
    assert reached and found.value == pytest.approx(kl, abs=1e-12)


def test_beyond_the_base_s_texts_the_least_divergence_is_a_bound_from_below() -> None:
    """Whatever the coin, and however far: the bound of the last strength holds, and is told to be no more than that."""
    found, reached = coins().find_least(sure(0.999))
    truth = 0.999 * math.log(0.999 / 0.3) + 0.001 * math.log(0.001 / 0.7)
    assert not reached and 0.5 < found.value < truth


def test_the_frontier_ends_where_one_text_more_could_decide() -> None:
    rng = np.random.default_rng(0)
    rewards = rng.poisson(0.5, 200).astype(float)
    frontier = Frontier(Sample(np.zeros(200), np.arange(200), 200), rewards)
    _, high = frontier.strengths
    more = np.exp(high * (rewards.max() + 1.0)) / 200
    assert more / np.exp(high * rewards).mean() == pytest.approx(UNSEEN)
    wide = Frontier(Sample(np.zeros(200), np.arange(200), 200), rewards, unseen=0.0)
    assert wide.strengths[1] > high


def test_a_reward_that_never_changes_has_a_frontier_of_one_point() -> None:
    frontier = Frontier(Sample(np.zeros(50), np.arange(50), 50), np.full(50, 2.0))
    assert frontier.strengths == (0.0, 0.0)
    (point,) = frontier.trace()
    assert point.reward.value == 2.0 and point.kl.value == 0.0
    found, reached = frontier.find_least(sure(3.0))
    assert found.value == 0.0 and not reached


def test_the_trace_goes_through_the_base_and_turns_there() -> None:
    points = coins().trace()
    rewards, kl = [point.reward.value for point in points], [point.kl.value for point in points]
    assert rewards == sorted(rewards) and min(kl) == pytest.approx(0.0, abs=1e-15)
    assert points[kl.index(min(kl))].strength == 0.0


def test_weighted_texts_make_the_same_frontier() -> None:
    n = np.array([300, 700])
    found = Frontier(Sample(np.log(n), np.arange(2), 2), np.array([1.0, 0.0]), unseen=0.0)
    assert found.find_point(0.8).kl.value == pytest.approx(coins().find_point(0.8).kl.value, abs=1e-12)
