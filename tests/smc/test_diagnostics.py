"""What a run foresees of its own error."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

import feynkac as fk
from feynkac.smc.diagnostics import diagnose

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


def say(*weights: list[float], resampled: bool = True):
    """The diagnostics of islands that ended with these weights, and were never resampled before."""
    with np.errstate(divide="ignore"):
        return diagnose([np.log(np.array(w)) for w in weights], np.zeros(len(weights)), 3, resampled=resampled)


def test_equal_weights_foresee_what_one_more_particle_might_show() -> None:
    found = say([0.25] * 4, [0.25] * 4)
    assert found.last_spread == 0.0
    assert found.part_spread == pytest.approx(math.sqrt(1 / 4 - 1 / 5)) == pytest.approx(math.sqrt(2) * found.spread)
    assert found.log_parts == [0.0, 0.0] and found.heaviest_part == 0.5 and found.heaviest_particle == 0.125
    assert math.isnan(found.tail)


def test_the_foreseen_error_is_that_of_independent_islands() -> None:
    found = say([1.0, 0.0], [0.5, 0.5])  # 1 / ESS - 1 / N is a half, and no less than a sixth
    assert found.part_spread == pytest.approx(math.sqrt((1 / 2 + 1 / 6) / 2))
    assert found.spread == pytest.approx(math.sqrt(0.25 * (1 / 2 + 1 / 6)))


def test_a_dead_island_counts() -> None:
    found = say([0.0, 0.0], [0.5, 0.5])
    one_more = 1 / 2 - 1 / 3
    assert found.heaviest_part == 1.0 and found.spread == pytest.approx(math.sqrt(one_more))
    assert found.part_spread == pytest.approx(math.sqrt((1.0 + one_more) / 2))
    assert found.log_parts[0] == -math.inf


def test_particles_that_never_met_are_one_population() -> None:
    together = say([1.0, 2.0, 0.0, 1.0], resampled=False)
    apart = say([2.0, 4.0], [0.0, 2.0], resampled=False)
    assert apart.spread == pytest.approx(together.spread) and len(apart.log_parts) == 2


@pytest.mark.parametrize(
    ("name", "islands"), [("chain seen well", 1), ("experts that nearly agree", 4), ("survival, half", 1)]
)
def test_the_foreseen_error_is_the_real_one(name: str, islands: int) -> None:
    """The root mean square of what 200 runs foresee, against the standard deviation of their evidence.

    The latter is known to 5 % (one standard error), and the former leaves covariances out.
    """
    from known.problems import make_problems

    problem = next(problem for problem in make_problems() if problem.name == name)
    options = {"particles": 128, "islands": islands, "progress": False}
    results = [fk.steer(problem.model, problem.potential, seed=seed, **options) for seed in range(200)]
    real = np.std([result.log_evidence for result in results], ddof=1)
    foreseen = math.sqrt(np.mean([result.diagnostics.spread**2 for result in results if result.diagnostics]))
    assert 0.75 * real < foreseen < 1.5 * real
