"""Sums over log-weights: lopsided fixtures, since symmetric ones hide a wrong sign."""

import numpy as np
import pytest

from feynkac.base.errors import WeightError
from feynkac.smc.weights import effective_sample_size, largest_share, log_sum_exp, normalise

DEAD = np.full(3, -np.inf)
LOPSIDED = np.log([0.7, 0.2, 0.1])


@pytest.mark.parametrize("shift", [0.0, -1e4, 1e4])
def test_values(shift: float) -> None:
    log_weight = np.append(LOPSIDED, -np.inf) + shift
    assert log_sum_exp(log_weight) == pytest.approx(shift, abs=1e-11)
    assert normalise(log_weight) == pytest.approx([0.7, 0.2, 0.1, 0.0], abs=1e-11)
    assert effective_sample_size(log_weight) == pytest.approx(1 / (0.49 + 0.04 + 0.01), rel=1e-11)
    assert largest_share(log_weight) == pytest.approx(0.7, rel=1e-11)


def test_no_mass() -> None:
    assert log_sum_exp(DEAD) == -np.inf
    assert not normalise(DEAD).any()
    assert effective_sample_size(DEAD) == 0.0
    assert largest_share(DEAD) == 0.0
    assert log_sum_exp(np.empty(0)) == -np.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("function", [log_sum_exp, normalise, effective_sample_size, largest_share])
def test_bad_weights_name_the_row(function, bad) -> None:
    with pytest.raises(WeightError, match="row 2"):
        function(np.array([0.0, -np.inf, bad, 1.0]))


def test_arguments_stay_as_they_are() -> None:
    log_weight = LOPSIDED.copy()
    for function in (log_sum_exp, normalise, effective_sample_size, largest_share):
        function(log_weight)
    assert np.array_equal(log_weight, LOPSIDED)
