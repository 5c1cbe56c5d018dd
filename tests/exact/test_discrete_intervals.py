"""The errors of discrete diffusion are calibrated: intervals hold the evidence that brute force knows."""

from __future__ import annotations

import math

import pytest
from scipy import stats
from test_discrete import KERNELS, problem

from feynkac import steer

RUNS, FALSE_ALARM = 100, 1e-5


@pytest.mark.parametrize(("kernel", "proposal"), [(kernel, "base") for kernel in KERNELS] + [
    ("masked", "gradient"), ("remasked", "difference"), ("one by one", "locally optimal"), ("uniform", "guided"),
])  # fmt: skip
def test_intervals_of_every_kernel_hold_the_evidence(kernel: str, proposal: str) -> None:
    """Four islands of sixteen, 100 runs: with a true coverage of 0.95 this fails once in 100,000 times."""
    model, potential, truth = problem(kernel, proposal)
    log_z = math.log(sum(truth.values()))
    options = {"particles": 64, "islands": 4, "on_death": "return", "progress": False}
    ends = [steer(model, potential, seed=seed, **options).log_evidence_interval() for seed in range(RUNS)]
    held = sum(low <= log_z <= high for low, high in ends)
    assert held >= stats.binom.ppf(FALSE_ALARM, RUNS, 0.95)
    closed = [high - low for low, high in ends if high < math.inf]
    assert len(closed) > RUNS / 5  # else the bound alone would be tested
