"""The enumeration itself: its probabilities, its symbolic uniforms, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from feynkac.smc.testing import Choices, enumerate_runs, expectation


def test_probabilities_are_those_of_the_choices() -> None:
    log_p = np.log([[0.2, 0.5, 0.3], [0.9, 0.1, 1e-300]])
    runs = dict((tuple(x), p) for p, x in enumerate_runs(lambda rng: rng.categorical(log_p)))
    assert len(runs) == 9
    assert runs[1, 0] == pytest.approx(0.45, rel=1e-12)
    assert math.fsum(runs.values()) == pytest.approx(1, abs=1e-12)


def test_later_choices_may_depend_on_earlier_ones() -> None:
    def run(rng: Choices) -> int:
        heads = 0
        while heads < 3 and rng.choose([0.5, 0.5]):
            heads += 1
        return heads

    assert [p for p, _ in sorted(enumerate_runs(run), key=lambda pair: pair[1])] == pytest.approx(
        [1 / 2, 1 / 4, 1 / 8, 1 / 8]
    )


def test_categories_without_mass_are_not_walked() -> None:
    with np.errstate(divide="ignore"):
        log_p = np.log([[0.0, 0.4, 0.0, 0.6, 0.0]])
    assert [int(x[0]) for _, x in enumerate_runs(lambda rng: rng.categorical(log_p))] == [1, 3]
    assert [int(x[0]) for _, x in enumerate_runs(lambda rng: rng.categorical(np.full((1, 3), -np.inf)))] == [0]


@given(st.floats(-2, 3), st.floats(-2, 3))
def test_a_uniform_is_below_x_with_probability_x(x: float, y: float) -> None:
    def run(rng: Choices) -> tuple[bool, bool]:
        u = rng.uniform(1)[0]
        return bool(u < x), bool(u < y)

    clipped = np.clip([x, y], 0, 1)
    np.testing.assert_allclose(expectation(run), clipped, atol=1e-12)
    both = expectation(lambda rng: all(run(rng)))
    assert both == pytest.approx(clipped.min(), abs=1e-12)


@given(st.floats(-3, 5), st.booleans())
def test_rounding_of_shifted_uniforms(a: float, minus: bool) -> None:
    def run(rng: Choices) -> list[float]:
        u = rng.uniform(1)[0]
        value = a - u if minus else u + a
        return [math.floor(value), math.ceil(value)]

    # E[floor(a + u)] = a and E[ceil(a - u)] = a, whatever a.
    floor, ceil = expectation(run)
    expected = (a - 1, a) if minus else (a, a + 1)
    np.testing.assert_allclose((floor, ceil), expected, atol=1e-9 if abs(a) < 1e-9 else 1e-12)


def test_numpy_rounds_symbolic_uniforms_too() -> None:
    cuts = np.array([0.3, 1.1, 1.9])
    for one in (lambda rng: rng.uniform(1)[0], lambda rng: rng.uniform(1)):
        mean = expectation(lambda rng, one=one: np.ceil(cuts - one(rng)).astype(np.int64))
        np.testing.assert_allclose(mean, cuts, atol=1e-12)
        mean = expectation(lambda rng, one=one: (np.array([0.2, 0.9]) > one(rng)).astype(np.int64))
        np.testing.assert_allclose(mean, [0.2, 0.9], atol=1e-12)
        mean = expectation(lambda rng, one=one: np.floor(np.float64(0.4) + one(rng)))
        np.testing.assert_allclose(mean, 0.4, atol=1e-12)


@pytest.mark.parametrize("compare", ["<", "<=", ">", ">="])
def test_every_comparison_and_both_signs(compare: str) -> None:
    def run(rng: Choices) -> list[Any]:
        u = rng.uniform(1)[0]
        test = {
            "<": lambda v, x: v < x,
            "<=": lambda v, x: v <= x,
            ">": lambda v, x: v > x,
            ">=": lambda v, x: v >= x,
        }[compare]
        return [bool(test(u, 0.3)), bool(test(1.5 - u, 0.7)), bool(test(-u, -0.2)), bool(test(u + 2, 2.6))]

    below = np.array([0.3, 0.2, 0.8, 0.6])
    np.testing.assert_allclose(expectation(run), below if "<" in compare else 1 - below, atol=1e-12)


def test_what_cannot_be_enumerated_is_refused() -> None:
    with pytest.raises(RuntimeError, match="more than 7 possible runs"):
        list(enumerate_runs(lambda rng: rng.categorical(np.zeros((3, 2))), max_runs=7))
    assert len(list(enumerate_runs(lambda rng: rng.categorical(np.zeros((3, 2))), max_runs=8))) == 8
    with pytest.raises(NotImplementedError):
        list(enumerate_runs(lambda rng: rng.normal((2,))))
    with pytest.raises(TypeError, match="compared with numbers only"):
        list(enumerate_runs(lambda rng: np.sort(rng.uniform(2))))


def test_a_run_that_remembers_is_refused() -> None:
    calls = []

    def other_law(rng: Choices) -> int:
        calls.append(1)
        return rng.choose([0.5, 0.5] if len(calls) < 2 else [0.25, 0.75])

    def shorter(rng: Choices) -> None:
        calls.append(1)
        for _ in range(2 if len(calls) < 2 else 0):
            rng.choose([0.5, 0.5])

    for run in (other_law, shorter):
        calls.clear()
        with pytest.raises(RuntimeError, match="keep nothing from one run to the next"):
            list(enumerate_runs(run))
