"""When a result carries a warning that it rests on few particles."""

from __future__ import annotations

import numpy as np
import pytest

from feynkac.base.clock import Stopwatch
from feynkac.smc.engine import Step
from feynkac.steering.recorder import Recorder


class Numbers:
    """A finished population whose samples are their rows."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def samples(self, rows: np.ndarray) -> list[int]:
        return rows.tolist()


def warnings(weights: list[float], algorithm: str = "smc") -> list[str]:
    """The warnings of a run that ended with these weights."""
    n = len(weights)
    with np.errstate(divide="ignore"):
        log_w = np.log(np.array(weights))
    whole = (slice(0, n),)
    step = Step(0, Numbers(n), log_w, np.zeros(n), np.arange(n), (False,), np.ones(n, np.bool_), whole, whole)
    recorder = Recorder(0, 1)
    recorder(step)
    return recorder.make_result(Stopwatch(), None, complete=True, warnings=[], algorithm=algorithm).warnings


def weights_of(ess: int, n: int) -> list[float]:
    """`ess` equal weights among `n`."""
    return [1.0] * ess + [0.0] * (n - ess)


@pytest.mark.parametrize(("ess", "n", "warned"), [(9, 100, True), (11, 100, False), (3, 40, True), (5, 40, False)])
def test_a_tenth_of_the_particles_is_few(ess: int, n: int, warned: bool) -> None:
    assert bool(warnings(weights_of(ess, n))) is warned


@pytest.mark.parametrize("n", [2, 4, 14])
def test_of_few_particles_one_and_a_half_are_too_few(n: int) -> None:
    # A tenth of so few is less than one and a half, and an effective sample size is at least one.
    (warning,) = warnings(weights_of(1, n))
    assert f"rests on 1.0 of {n} particles" in warning
    (warning,) = warnings([1.0, 0.2] + [0.0] * (n - 2))  # 1.44 / 1.04 = 1.38 effective ones
    assert f"rests on 1.4 of {n} particles" in warning
    assert not any("rests on" in text for text in warnings([1.0, 0.3] + [0.0] * (n - 2)))  # 1.69 / 1.09 = 1.55


def test_one_particle_or_none_alive_is_no_news() -> None:
    assert warnings([1.0]) == [] and warnings([0.0, 0.0, 0.0]) == []
