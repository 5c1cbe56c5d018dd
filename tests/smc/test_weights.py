"""Sums over log-weights: lopsided fixtures, since symmetric ones hide a wrong sign."""

from typing import Any

import numpy as np
import pytest

from feynkac.base.errors import PotentialError, WeightError
from feynkac.smc.checks import check_log_weights
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


class _Raises:
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise KeyError("a fault of the user's")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.array([0.0, 1j]), "complex numbers"),
        (np.ma.array([0.0, 1.0], mask=[False, True]), "nan for row 7"),
        (np.ma.array([0, 1], mask=[False, True]), "nan for row 7"),
        (_Raises(), "_Raises"),
    ],
)
def test_values_that_hold_no_number_are_no_log_weights(given: Any, said: str) -> None:
    """Where the imaginary part, or a mask, was dropped, the rest would be taken for the weight."""
    with pytest.raises(PotentialError, match=said):
        check_log_weights(given, source="mine", what="level", t=0, rows=np.array([3, 7]))
    found = check_log_weights(np.ma.array([1, 2]), source="mine", what="level", t=0, rows=np.array([3, 7]))
    assert found.tolist() == [1.0, 2.0]
