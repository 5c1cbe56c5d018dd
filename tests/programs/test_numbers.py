"""What programs give as weights and conditions: numbers and bools of any library, and nothing that only looks so."""

from __future__ import annotations

import asyncio
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.potentials import product
from feynkac.programs import Bernoulli, program
from feynkac.programs.compat.llamppl import Model, smc_standard, smc_steer
from feynkac.smc.engine import smc
from feynkac.smc.resample import systematic
from feynkac.smc.testing import expectation

HALVES = [
    0.5, Decimal("0.5"), Fraction(1, 2), np.float32(0.5), np.float64(0.5), np.array(0.5), np.array([0.5]),
    np.array([[0.5]]), torch.tensor(0.5), torch.tensor([0.5]), torch.tensor([[0.5]], dtype=torch.bfloat16),
    torch.tensor([0.5], requires_grad=True),
]  # fmt: skip
ONES = [1, np.int8(1), np.array([1]), torch.tensor(1), torch.tensor([1])]
NO_NUMBERS = [
    None, "1", np.str_("1"), True, np.True_, np.array([True]), torch.tensor([True]), [1.0], (1.0,), 1j, [],
    np.zeros(2), np.zeros(0), torch.zeros(2, 1),
]  # fmt: skip
TOO_MUCH = [math.inf, math.nan, Decimal("NaN"), Decimal("inf"), np.array([np.nan]), torch.tensor([torch.inf])]


def find_mean_z(model) -> float:
    """E[Z] over all runs of two particles, resampled at each step."""

    def run(rng) -> float:
        *_, last = smc(model, product(), n=2, resample=systematic, rng=rng)
        return math.exp(last.log_z)

    return expectation(run)


@program
def weighs(p, how, value):
    holds = p.sample(Bernoulli(0.5))
    if holds:
        getattr(p, how)(value)
    p.sample(Bernoulli(0.25))  # so that particles are forked, and run again
    return holds


@pytest.mark.parametrize("value", [*HALVES, *ONES], ids=repr)
def test_a_weight_is_a_number_of_any_library(value) -> None:
    """E[Z] is exact: half of the mass weighs exp(value), and a guess weighs nothing in the end."""
    nats = 0.5 if any(value is half for half in HALVES) else 1.0
    for how, wanted in (("factor", 0.5 + 0.5 * math.exp(nats)), ("twist", 1.0)):
        assert find_mean_z(weighs(how, value)) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize("how", ["factor", "twist"])
def test_what_is_no_number_is_no_weight(how, value) -> None:
    with pytest.raises(ArgumentError, match=rf"p\.{how}\(.*\): give a number in nats; for a bool use p\.condition"):
        fk.steer(weighs(how, value), particles=8, seed=0)


@pytest.mark.parametrize("value", TOO_MUCH, ids=repr)
@pytest.mark.parametrize("how", ["factor", "twist"])
def test_a_weight_is_below_infinity(how, value) -> None:
    with pytest.raises(ArgumentError, match=rf"p\.{how}\((nan|inf)\): give a number below infinity"):
        fk.steer(weighs(how, value), particles=8, seed=0)


@pytest.mark.parametrize("make", [bool, np.bool_, lambda b: np.array([b]), torch.tensor, lambda b: torch.tensor([[b]])])
def test_a_condition_is_a_bool_of_any_library(tiny_lm, make) -> None:
    @program
    def conditioned(p):
        drawn = p.sample(Bernoulli(0.25))
        p.condition(make(drawn))
        return drawn

    @program
    def masked(p, lm):
        text = lm.context("ab")
        p.observe(text.mask(["a"]), make(False))
        return str(p.sample(text.next_token()))

    assert set(fk.steer(conditioned(), particles=32, seed=0).samples) >= {True}
    assert find_mean_z(conditioned()) == pytest.approx(0.25, abs=1e-12)
    assert "a" not in fk.steer(masked(tiny_lm("a", "b")), particles=8, seed=0).samples


@pytest.mark.parametrize(
    "value", [1, 0.0, None, "yes", np.array([1]), np.array([True, True]), torch.tensor(1)], ids=repr
)
def test_what_is_no_bool_is_no_condition(value) -> None:
    with pytest.raises(ArgumentError, match=r"p\.condition\(.*\): give a bool"):
        fk.steer(weighs("condition", value), particles=8, seed=0)


class Scores(Model):
    """One step, which scores by what it was given."""

    def __init__(self, value) -> None:
        super().__init__()
        self.value = value

    def immutable_properties(self):
        return {"value"}

    async def step(self) -> None:
        self.score(self.value)
        self.twist(self.value)
        self.finish()


@pytest.mark.parametrize("value", [*HALVES, *ONES, True], ids=repr)
def test_a_score_of_llamppl_is_a_number_of_any_library(value) -> None:
    particles = asyncio.run(smc_standard(Scores(value), 2, seed=0))
    assert particles.log_evidence == (0.5 if any(value is half for half in HALVES) else 1.0)


@pytest.mark.parametrize(
    "value", [*[each for each in NO_NUMBERS if isinstance(each, str | list)], None, *TOO_MUCH], ids=repr
)
def test_what_is_no_score_of_llamppl_is_told_by_the_models_name(value) -> None:
    with pytest.raises(ArgumentError, match=r"Scores\.score\(.*\): give a number"):
        asyncio.run(smc_standard(Scores(value), 2, seed=0))


@pytest.mark.parametrize("number", [2.0, "2", None, True, 0, -1, math.nan])
def test_what_is_no_number_of_particles_of_llamppl_is_one_error(number) -> None:
    with pytest.raises(ArgumentError, match=r"^smc_standard: n_particles is .*; it must be an integer of at least 1$"):
        asyncio.run(smc_standard(Scores(0.0), number, seed=0))
    with pytest.raises(ArgumentError, match=r"^smc_steer: n_particles is .*; it must be an integer of at least 1$"):
        asyncio.run(smc_steer(Scores(0.0), number, 2, seed=0))
    with pytest.raises(ArgumentError, match=r"^smc_steer: n_beam is .*; it must be an integer of at least 1$"):
        asyncio.run(smc_steer(Scores(0.0), 2, number, seed=0))
    assert len(asyncio.run(smc_steer(Scores(0.0), np.int64(2), np.int8(2), seed=0))) == 2


def test_numbers_of_particles_of_llamppl_that_no_machine_holds_are_refused() -> None:
    for run in (smc_standard(Scores(0.0), 10**30), smc_steer(Scores(0.0), 1000, 10**6)):
        with pytest.raises(ArgumentError, match=r"n_particles.* is \d+; it must be at most 1,000,000"):
            asyncio.run(run)


@pytest.mark.parametrize("threshold", [10**400, Fraction(10**400), math.inf])
def test_a_threshold_of_llamppl_above_one_resamples_at_each_step(threshold) -> None:
    assert len(asyncio.run(smc_standard(Scores(0.0), 2, threshold, seed=0))) == 2


@pytest.mark.parametrize("threshold", ["0.5", None, math.nan, [0.5]])
def test_what_is_no_threshold_of_llamppl_is_one_error(threshold) -> None:
    with pytest.raises(ArgumentError, match=r"smc_standard: ess_threshold is .*; give a share of the particles"):
        asyncio.run(smc_standard(Scores(0.0), 2, threshold, seed=0))


@pytest.mark.parametrize("infer", [smc_standard, lambda model, n: smc_steer(model, n, 2)])
def test_a_class_in_place_of_a_model_of_llamppl_is_one_error(infer) -> None:
    with pytest.raises(ArgumentError, match=r"Scores'> is no model; give an instance, Scores\(\.\.\.\)"):
        asyncio.run(infer(Scores, 2))
