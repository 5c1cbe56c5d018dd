"""Experts and mixtures that cannot be, each refused by the line that makes it."""

from __future__ import annotations

import math

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.errors import ArgumentError


@pytest.mark.parametrize("power", [math.nan, math.inf, True, "2", None])
def test_a_power_that_is_no_finite_number_is_refused(tiny_lm, power) -> None:
    with pytest.raises(ArgumentError, match=r"power is .*; it must be a finite number"):
        fk.expert(tiny_lm("a").prompt("a"), power)
    with pytest.raises(ArgumentError, match="finite number"):
        fk.expert(tiny_lm("a").prompt("a")) ** power


@pytest.mark.parametrize("make", [fk.expert, lambda thing: fk.mixture([thing])])
def test_an_expert_that_is_no_prompt_is_refused(tiny_lm, make) -> None:
    lm = tiny_lm("a")
    for wrong in (lm, "a text", None, lambda text: 0.0):
        with pytest.raises(ArgumentError, match=r"is no prompt; give lm\.prompt"):
            make(wrong)
    with pytest.raises(ArgumentError, match=r"multiply experts, or give fk\.mixture a list"):
        make([lm.prompt("a"), lm.prompt("aa")])


def test_a_prompt_that_is_several_or_obeys_constraints_is_refused(tiny_lm) -> None:
    lm = tiny_lm("a")
    with pytest.raises(ArgumentError, match="2 prompts joined are no expert"):
        fk.expert(lm.prompt("a").join([lm.prompt("aa")]))
    with pytest.raises(ArgumentError, match="obeys constraints is no expert"):
        fk.expert(lm.prompt("a").constrain([fk.regex("a*")]))


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, math.nan], "ab", 3.0, [1.0, "x"]])
def test_weights_of_a_mixture_that_cannot_be_are_refused(tiny_lm, weights) -> None:
    lm = tiny_lm("a")
    with pytest.raises(ArgumentError, match="give 2 positive numbers"):
        fk.mixture([lm.prompt("a"), lm.prompt("aa")], weights)


def test_a_mixture_of_nothing_is_refused(tiny_lm) -> None:
    with pytest.raises(ArgumentError, match="give at least one"):
        fk.mixture([])
    with pytest.raises(ArgumentError, match="give a list of prompts"):
        fk.mixture(tiny_lm("a").prompt("a"))


def test_a_mixture_of_one_is_an_expert(tiny_lm) -> None:
    lm = tiny_lm("a", "b")
    task, other = lm.prompt("a", max_tokens=4), lm.prompt("b")
    one, same = (fk.steer(task, by, particles=8, seed=0) for by in (fk.expert(other), fk.mixture([other], [7.0])))
    np.testing.assert_array_equal(one.log_weights, same.log_weights)
    assert one.texts == same.texts


def test_names_say_the_power(tiny_lm) -> None:
    expert = fk.expert(tiny_lm("a").prompt("a"), 2)
    assert (expert.name, (expert**-0.25).name) == ("expert ** 2", "expert ** -0.5")
