"""Rewards of steps: where steps end, what they come to, and that this is the target whatever was asked on the way."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import feynkac as fk
from feynkac.base.errors import ArgumentError, PotentialError
from feynkac.potentials import process_reward, reward
from feynkac.potentials.rewards.boundaries import boundaries
from feynkac.potentials.rewards.steps import list_steps
from tests.exact.test_language_model import remember

WAYS: list[Any] = [
    "\n\n",
    ";",
    re.compile(r"\n+"),
    re.compile(r"b(?=a)"),
    lambda text: [m.end() for m in re.finditer(";", text)],
]


@pytest.mark.parametrize("every", WAYS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=st.text("ab;\n", max_size=12), cuts=st.lists(st.integers(0, 12), max_size=5))
def test_steps_do_not_depend_on_how_a_text_was_cut(every: Any, text: str, cuts: list[int]) -> None:
    found, last = [], 0
    for cut in [*sorted(cuts), len(text)]:
        found += boundaries(text[:cut], last, every)
        last = found[-1] if found else 0
    assert found == boundaries(text, 0, every)
    assert all(a < b for a, b in itertools.pairwise(found))


def test_where_steps_end() -> None:
    assert list_steps("a\n\nb\n\nc", "\n\n") == [3, 6, 7]
    assert list_steps("a\n\nb\n\n", "\n\n") == [3, 6], "nothing follows the last boundary"
    assert list_steps("a\n\nb\n\n \n", "\n\n") == [3, 6], "blanks are no step"
    assert list_steps("abc", "\n\n") == [3] and list_steps("", "\n\n") == [0] and list_steps(" ", "\n\n") == [1]
    assert list_steps("a\n\n\nb", re.compile("\n+")) == [4, 5]
    assert list_steps("Step 1: a Step 2: b", re.compile(r"(?<=\S) (?=Step)")) == [10, 19]


SCORES = {"a;": 0.5, "a;b;": 0.25, "a;b;c": 2.0, "a;b": -1.0, "x": 3.0, "a;b;c;": 4.0}


@pytest.mark.parametrize(
    ("total", "levels", "final"),
    [
        ("last", [0, 0.5, 0.5, 0.25], 2.0),
        ("min", [0, 0.5, 0.5, 0.25], 0.25),
        ("sum", [0, 0.5, 0.5, 0.75], 2.75),
        ("product", [0, 0.5, 0.5, 0.125], 0.25),
        ("mean", [0, 0.5, 0.5, 0.375], 2.75 / 3),
    ],
)
def test_what_the_steps_come_to(population: Any, total: Any, levels: list[float], final: float) -> None:
    asked: list[str] = []

    def f(text: str) -> float:
        asked.append(text)
        return SCORES[text]

    potential, state, rows = process_reward(f, ";", total, scale=2.0), population([""]), np.arange(1)
    found = []
    for t, text in enumerate(["a", "a;", "a;b", "a;b;"]):
        state.rows[0] = text
        found.append(float(potential.level(t, state, rows)[0]))
    assert found == [2.0 * level for level in levels]
    state.rows[0] = "a;b;c"
    assert potential.final(state, rows).tolist() == [2.0 * final]
    assert asked == ["a;", "a;b;", "a;b;c"], "each prefix once"
    assert potential.final(population(["a;b;c", "x"]), np.arange(2)).tolist() == [2.0 * final, 6.0], (
        "from the text alone"
    )


def test_several_steps_in_one_token_are_all_scored(population: Any) -> None:
    potential = process_reward(len, ";", "sum")
    state = population(["a;b;c;d"])
    assert potential.level(0, state, np.arange(1)).tolist() == [2 + 4 + 6]
    assert potential.final(state, np.arange(1)).tolist() == [2 + 4 + 6 + 7]


def test_boundaries_that_were_broken_on_the_way_do_not_change_the_target(population: Any) -> None:
    """A rule of one's own that sees other steps in the whole text than it saw on the way."""
    potential = process_reward(lambda text: float(len(text)), lambda text: [len(text) // 2], "sum")
    state = population(["abcd"])
    potential.level(0, state, np.arange(1))
    state.rows[0] = "abcdefgh"
    potential.level(1, state, np.arange(1))
    state.rows[0] = "abcdefghij"
    alone = potential.final(population(["abcdefghij"]), np.arange(1))
    assert potential.final(state, np.arange(1)).tolist() == alone.tolist() == [5 + 10]


def test_minus_infinity_of_a_step_kills_whatever_follows(population: Any) -> None:
    for total in ("min", "sum", "product", "last", "mean"):
        potential = process_reward(lambda text: -np.inf if text == "a;" else 0.0, ";", total, scale=-1.0)  # type: ignore[arg-type]
        state = population(["a;b", "b;b"])
        assert potential.level(0, state, np.arange(2)).tolist() == [-np.inf, 0]
        assert potential.final(state, np.arange(2)).tolist() == [-np.inf, 0]


@pytest.mark.parametrize("total", ["last", "min", "sum", "product", "mean"])
@pytest.mark.parametrize("resampler", ["ssp", "multinomial"])
def test_the_target_is_exact_for_every_total(
    tiny_lm: Any, monkeypatch: pytest.MonkeyPatch, total: Any, resampler: str
) -> None:
    """Over all runs of two particles: E[Z] is the sum over all texts of p exp(scale R)."""
    from feynkac.smc.engine import smc
    from feynkac.smc.resample import by_name
    from feynkac.smc.testing import expectation

    remember(monkeypatch)
    lm = tiny_lm(";", "b", seed=3)
    task = lm.prompt(tokens=[1], max_tokens=2)
    prm = {"": 0.1}

    def f(text: str) -> float:
        return prm.setdefault(text, (len(text) + 2 * text.count("b")) * 0.3 - 0.5)

    potential = process_reward(f, ";", total, scale=1.3)

    def brute(text: str) -> float:
        r = [f(text[:end]) for end in list_steps(text, ";")]
        fold = {"last": r[-1], "min": min(r), "sum": sum(r), "product": np.prod(r), "mean": np.mean(r)}
        return float(fold[total])

    listed = fk.steer(task, algorithm="exact")
    truth = sum(
        np.exp(log_p + 1.3 * brute(text)) for text, log_p in zip(listed.samples, listed.log_weights, strict=True)
    )

    def z(rng: Any) -> float:
        *_, last = smc(task, potential, n=2, resample=by_name(resampler), rng=rng)
        return float(np.exp(last.log_z))

    assert expectation(z) == pytest.approx(truth, rel=1e-12)


def test_rewards_may_be_asked_at_steps_of_ones_own(population: Any) -> None:
    asked: list[str] = []
    potential, state = reward(lambda text: asked.append(text) or 1.0, every="\n\n"), population(["a"])
    for text in ("a", "a\n\n", "a\n\nb"):
        state.rows[0] = text
        potential.level(0, state, np.arange(1))
    assert asked == ["a\n\n"]


def test_a_rule_that_gives_no_places_is_named(population: Any) -> None:
    def bad(text: str) -> Any:
        return [len(text) + 1]

    for rule, said in ((bad, r"every=bad returned \[2\] for a text of 1 char"), (lambda text: None, "returned None")):
        with pytest.raises(PotentialError, match=said):
            process_reward(len, rule).final(population(["a"]), np.arange(1))


def test_bad_arguments_of_process_rewards() -> None:
    for wrong, problem in [
        (lambda: process_reward(len, "token"), "a step ends at a place in the text"),
        (lambda: process_reward(len, 3), "a step ends at a place in the text"),
        (lambda: process_reward(len, "end"), "a step ends at a place in the text"),
        (lambda: process_reward(len, "Step"), "re.compile"),
        (lambda: process_reward(len, total="max"), "'last', 'min', 'sum', 'product', 'mean'"),  # type: ignore[arg-type]
        (lambda: process_reward(len, scale=float("nan")), "finite"),
        (lambda: process_reward(3), "a function of the sample"),  # type: ignore[arg-type]
        (lambda: process_reward(lambda a, b: 1.0), "called with one argument"),
    ]:
        with pytest.raises(ArgumentError, match=problem):
            wrong()
