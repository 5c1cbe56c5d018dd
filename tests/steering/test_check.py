"""`feynkac.check`: each mistake that an author makes is told in words, and what is right is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.capabilities import (
    OF_AUTOMATA,
    OF_DENOISERS,
    OF_MODELS,
    OF_OBSERVERS,
    OF_POTENTIALS,
    OF_PROPOSALS,
    OF_STATES,
)
from feynkac.steering.checking.report import Report


class Walks:
    """Rows that add +1 or -1, four times."""

    def __init__(self, sums: np.ndarray, t: int = 0) -> None:
        self.sums, self.t = sums, t

    def __len__(self) -> int:
        return len(self.sums)

    def fork(self, rows: np.ndarray) -> Walks:
        return Walks(self.sums[rows], self.t)


class Walk:
    def init(self, n: int, rng: Any) -> Any:
        return Walks(np.zeros(n))

    def step(self, t: int, state: Any, rng: Any) -> Any:
        up = rng.uniform(len(state)) < 0.5
        return Walks(state.sums + np.where(up, 1.0, -1.0), state.t + 1), np.zeros(len(state))

    def done(self, state: Any) -> Any:
        return np.full(len(state), state.t == 4)


class High:
    def level(self, t: int, state: Any, rows: np.ndarray) -> np.ndarray:
        return 0.5 * state.sums[rows]

    def final(self, state: Any, rows: np.ndarray) -> np.ndarray:
        return 0.5 * state.sums[rows]


def faults(model: Any, *potentials: Any) -> str:
    report = fk.check(model, *potentials)
    assert isinstance(report, Report) and report.faults
    assert all(fault in str(report) for fault in report.faults)
    return " | ".join(report.faults)


def test_what_is_right_has_no_faults_and_says_what_it_lacks() -> None:
    report = fk.check(Walk(), High())
    assert report.faults == []
    assert "the same seed gives the same weights" in report.passed
    assert any("Joins" in line for line in report.lacks)
    assert any(line.startswith("state: Shows. Without it: a sample is the state") for line in report.lacks)
    assert "WRONG" not in str(report)


def test_a_prompt_and_a_program_are_right(tiny_lm) -> None:
    task = tiny_lm("a", "b").prompt(tokens=[1], max_tokens=3)
    report = fk.check(task, fk.regex("[ab]*"), lambda text: 0.1 * len(text))
    assert report.faults == []
    assert "a path that is walked again ends in the same sample" in report.passed

    @fk.program
    def coin(p: Any) -> str:
        return "heads" if p.sample(fk.Bernoulli(0.3)) else "tails"

    assert fk.check(coin()).faults == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"done": None}, "has no done"),
        ({"init": lambda self, n, rng: Walks(np.zeros(n + 1))}, "length 5 where there are 4 rows"),
        ({"step": lambda self, t, state, rng: (state, np.zeros(2))}, "returned shape (2,) for 4 rows"),
        ({"step": lambda self, t, state, rng: (state, np.full(4, np.nan))}, "returned nan for row 0"),
        ({"done": lambda self, state: True}, "returned shape ()"),
        ({"step": lambda self, t, state, rng: 1 / 0}, "a run stopped: 'Wrong'.step at step 0 raised ZeroDivisionError"),
    ],
)
def test_mistakes_of_a_model(change: dict[str, Any], told: str) -> None:
    assert told in faults(type("Wrong", (Walk,), change)(), High())


def test_a_model_with_numbers_of_its_own() -> None:
    own = np.random.default_rng()

    class Wild(Walk):
        def step(self, t: int, state: Any, rng: Any) -> Any:
            return Walks(state.sums + own.normal(size=len(state)), state.t + 1), np.zeros(len(state))

    assert "the same seed gave other weights at step 0" in faults(Wild(), High())


def test_a_fork_that_forgets_rows() -> None:
    class Short(Walks):
        def fork(self, rows: np.ndarray) -> Walks:
            return Short(self.sums[rows][1:], self.t)

    class Model(Walk):
        def init(self, n: int, rng: Any) -> Any:
            return Short(np.zeros(n))

        def step(self, t: int, state: Any, rng: Any) -> Any:
            return Short(state.sums, state.t + 1), np.zeros(len(state))

    assert "fork returned a state of length 3 where there are 4 rows" in faults(Model(), High())


def test_mistakes_of_a_potential() -> None:
    class Nan(High):
        def level(self, t: int, state: Any, rows: np.ndarray) -> np.ndarray:
            return np.full(len(rows), np.nan)

    assert "'Nan'.level at step 0 returned nan" in faults(Walk(), Nan())
    assert "has no final" in faults(Walk(), type("Half", (), {"level": lambda self, t, state, rows: 0})())
    assert "give an instance: High(...)" in faults(Walk(), High)
    assert "Walks has neither" in faults(Walk(), lambda text: 1.0)


def test_a_replay_that_walks_elsewhere() -> None:
    class Shown(Walks):
        def fork(self, rows: np.ndarray) -> Walks:
            return Shown(self.sums[rows], self.t)

        def samples(self, rows: np.ndarray) -> list[float]:
            return self.sums[rows].tolist()

    class Replayed(Walk):
        def init(self, n: int, rng: Any) -> Any:
            return Shown(np.zeros(n))

        def step(self, t: int, state: Any, rng: Any) -> Any:
            return Shown(state.sums + rng.uniform(len(state)), state.t + 1), np.zeros(len(state))

        def replay(self, t: int, state: Any, rng: Any, reference: Any) -> Any:
            return self.step(t, state, rng)

        def trace(self, state: Any, row: int) -> Any:
            return state.sums[row]

    assert "replay led row 0 to" in faults(Replayed(), High())


def test_arguments() -> None:
    with pytest.raises(fk.ArgumentError, match="particles is 1; it must be an integer of at least 2"):
        fk.check(Walk(), particles=1)


def test_every_capability_says_what_happens_without_it() -> None:
    for capability in (
        *OF_MODELS,
        *OF_STATES,
        *OF_POTENTIALS,
        *OF_PROPOSALS,
        *OF_DENOISERS,
        *OF_AUTOMATA,
        *OF_OBSERVERS,
    ):
        assert " Without it: " in " ".join((capability.__doc__ or "").split()), capability
