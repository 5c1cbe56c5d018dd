"""Products and powers of potentials, and constraints as potentials of texts."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.errors import ArgumentError, PotentialError
from feynkac.base.masks import TokenConstraint
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials import (
    Factor,
    as_potential,
    choices,
    constraint,
    grammar,
    json_schema,
    length,
    product,
    regex,
    reward,
    tokens,
)
from feynkac.smc.checks import name_of

NONE = -np.inf
ROWS = np.arange(3)
VOCABULARY = Vocabulary((b"a", b"ab", b"b", b"\xc3", b"\xa9", b""), (5,))


class Constant(Factor):
    """A user's potential with its own levels."""

    def __init__(self, values: list[float], name: str = "constant") -> None:
        self.values, self.name, self.asked = np.array(values), name, []

    def level(self, t: int, state: Any, rows: Any) -> Any:
        self.asked.append(rows.tolist())
        return self.values[rows] + t

    def final(self, state: Any, rows: Any) -> Any:
        return self.values[rows]


class Foreign:
    """A user's potential without the base class."""

    def level(self, t: int, state: Any, rows: Any) -> Any:
        return np.full(len(rows), 10.0)

    def final(self, state: Any, rows: Any) -> Any:
        return np.full(len(rows), 20.0)


def test_log_weights_of_a_product_add() -> None:
    a, b = Constant([1, 2, NONE]), Constant([10, 20, 30])
    for both in (a * b, product(a, b), b * a):
        assert both.level(5, None, ROWS).tolist() == [21, 32, NONE]
        assert both.final(None, np.array([2, 0])).tolist() == [NONE, 11]
    assert (a * Foreign()).final(None, ROWS).tolist() == [21, 22, NONE]
    assert (Foreign() * a).final(None, ROWS).tolist() == [21, 22, NONE]
    assert product().final(None, ROWS).tolist() == [0, 0, 0]


def test_powers_scale_and_leave_the_dead_dead() -> None:
    a = Constant([4, -2, NONE])
    assert (a**0.5).final(None, ROWS).tolist() == [2, -1, NONE]
    assert (a**0.5).level(2, None, ROWS).tolist() == [3, 0, NONE]
    assert ((a**0.5) ** 4).final(None, ROWS).tolist() == [8, -4, NONE]
    assert (a**0).final(None, ROWS).tolist() == [0, 0, NONE]
    assert (a**-1).final(None, ROWS[:2]).tolist() == [-4, 2]
    with pytest.raises(PotentialError, match=r"'constant \*\* -1'.final returned inf for row 2"):
        (a**-1).final(None, ROWS)
    both = (a * Constant([1, 1, 1])) ** 2
    assert both.final(None, ROWS).tolist() == [10, -2, NONE]
    assert len(both.factors) == 2
    assert (product(Foreign(), a) ** 2).final(None, ROWS).tolist() == [48, 36, NONE]


def test_a_power_of_a_constraint_is_the_constraint() -> None:
    for hard in (
        regex("a*"),
        constraint(bool),
        length(max=3),
        tokens(ban=["a"]),
        json_schema({}),
        grammar('start: "a"'),
    ):
        assert hard**0.5 is hard and hard**0 is hard
        with pytest.raises(ArgumentError, match="opposite constraint"):
            _ = hard**-1
    soft = reward(len)
    assert name_of(((soft * regex("a")) ** 2).factors[1]) == "regex('a')"
    for wrong in (float("nan"), float("inf"), "2", None, True):
        with pytest.raises(ArgumentError, match="finite number"):
            soft**wrong  # type: ignore[operator]


def test_factors_are_flat_so_that_hard_ones_can_be_found() -> None:
    a, b, c, d = regex("a*"), reward(len), constraint(bool), Foreign()
    nested = (a * b) * product(c, d)
    assert nested.factors == (a, b, c, d)
    assert [isinstance(factor, TokenConstraint) for factor in nested.factors] == [True, False, False, False]
    assert not nested.hard and (a * c).hard
    assert nested.name == "regex('a*') * reward(len) * constraint(bool) * Foreign"


def test_the_dead_are_asked_no_more(population: Any) -> None:
    soft = Constant([1, 2, 3])
    both = soft * constraint(lambda text: text != "b", every="token")
    assert both.level(0, population(["a", "b", "c"]), ROWS).tolist() == [1, NONE, 3]
    assert soft.asked == [[0, 2]]


def test_the_factor_at_fault_is_named() -> None:
    good = Constant([1, 2, 3])
    for bad, problem in [
        (Constant([1, np.nan, 1], "bad"), "'bad'.level at step 4 returned nan for row 1"),
        (Constant([1, 1, np.inf], "bad"), "'bad'.level at step 4 returned inf for row 2"),
    ]:
        with pytest.raises(PotentialError, match=problem):
            (good * bad).level(4, None, ROWS)
        with pytest.raises(PotentialError, match=problem.split("'.")[0]):
            (good * bad**2).final(None, ROWS)
    wrong = Constant([1, 1, 1], "short")
    wrong.final = lambda state, rows: np.zeros(1)  # type: ignore[method-assign]
    with pytest.raises(PotentialError, match=r"'short'\.final returned shape"):
        (good * wrong).final(None, ROWS)


def test_what_is_no_potential_is_refused_with_advice() -> None:
    for wrong, advice in [
        ("a*", "use regex"),
        ({"type": "string"}, "use json_schema"),
        ([reward(len)], "product"),
        (2.0, r"a \*\* 0.5"),
        (Foreign, r"pass an instance: Foreign\(...\)"),
        (None, "level"),
    ]:
        with pytest.raises(ArgumentError, match=advice):
            as_potential(wrong)
        with pytest.raises(ArgumentError, match=advice):
            _ = regex("a") * wrong
    assert isinstance(as_potential(Foreign()), Foreign)
    with pytest.raises(NotImplementedError):
        Factor().final(None, ROWS)
    assert Factor().level(0, None, ROWS).tolist() == [0, 0, 0]


@pytest.mark.parametrize("make", [lambda: regex("(ab)*é?"), lambda: grammar('start: "ab"* "é"?')])
def test_constraints_weigh_texts_that_no_model_masks(population: Any, make: Any) -> None:
    texts = [[], [0, 2], [1, 0], [1, 1, 3], [3, 4], [2], [0, 2, 3, 4, 3]]
    expected_level = [0, 0, 0, 0, 0, NONE, NONE]
    expected_final = [0, 0, NONE, NONE, 0, NONE, NONE]
    hard, state, rows = make(), population(texts, VOCABULARY), np.arange(len(texts))
    for _ in range(2):
        assert hard.level(0, state, rows).tolist() == expected_level
        assert hard.final(state, rows[::-1]).tolist() == expected_final[::-1]
    state.rows = [[*text, 2] for text in texts]
    assert hard.level(1, state, rows).tolist() == [NONE, NONE, 0, NONE, NONE, NONE, NONE]
    state.rows = texts[::-1]
    assert hard.final(state, rows).tolist() == expected_final[::-1], "other texts of the same length"


def test_the_states_that_a_model_carries_are_used(population: Any) -> None:
    hard, state = regex("ab"), population([[], [], []], VOCABULARY)
    automaton = hard.automaton(VOCABULARY)
    assert hard.automaton(VOCABULARY) is automaton
    done = automaton.advance(np.array([0]), np.array([1]))[0]
    state.states = lambda asked, rows: np.array([0, -1, done])[rows] if asked is hard else None
    assert hard.level(0, state, ROWS).tolist() == [0, NONE, 0]
    assert hard.final(state, ROWS[1:]).tolist() == [NONE, 0]
    with pytest.raises(PotentialError, match="constrains tokens"):
        hard.final(object(), ROWS)


def test_constraints_let_go_of_vocabularies(frozen) -> None:
    import gc
    import weakref

    for hard in (regex("a*"), grammar('start: "a"*'), length(max=3), tokens(ban=["b"]), choices(["a"])):
        vocabulary = Vocabulary((b"a", b"b", b""), (2,))
        hard.automaton(vocabulary)
        gone = weakref.ref(vocabulary)
        del vocabulary
        gc.collect()
        assert gone() is None, hard


def test_importing_potentials_is_cheap() -> None:
    code = """
import sys, feynkac.potentials as p
made = [p.regex("a"), p.choices(["a"]), p.length(max=3), p.reward(len)]
heavy = {"torch", "transformers", "llguidance", "numba"} & set(sys.modules)
assert not heavy, heavy
made = [p.json_schema({}), p.grammar("start: \\"a\\"")]  # these are read where they are written
heavy = {"torch", "transformers", "numba"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["phrases", "canonical", "power", "reward", "twist", "regex", "wfsa", "json_schema"])
def test_a_function_that_makes_potentials_is_no_potential(name: str) -> None:
    make = getattr(fk, name)
    for wrong in (as_potential, reward, constraint, fk.twist, fk.process_reward):
        with pytest.raises(ArgumentError, match=rf"'{name}' makes a potential, and is none itself; call it: {name}\("):
            wrong(make)


def test_a_class_in_the_place_of_its_instance_is_refused() -> None:
    class Score:
        def __call__(self, text: str) -> float:
            return 1.0

    for make in (reward, constraint, fk.twist, fk.process_reward):
        with pytest.raises(ArgumentError, match=r"Score is a class; give an instance: Score\("):
            make(Score)
    assert make(Score())
    assert reward(float)  # of a class that is a function of the text


@pytest.mark.parametrize(
    ("schedule", "problem"),
    [
        (lambda t: None, "returned None; return a positive number"),
        (lambda t: 0.0, "returned 0.0"),
        (lambda t: "2", "returned '2'"),
        (lambda t: 1 // t, "raised ZeroDivisionError"),
    ],
)
def test_a_schedule_that_gives_no_power_is_named(schedule: Any, problem: str) -> None:
    with pytest.raises(PotentialError, match=rf"'power\(2\)' at step 0: the schedule {problem}"):
        fk.power(2.0, schedule).find_alpha(0)
