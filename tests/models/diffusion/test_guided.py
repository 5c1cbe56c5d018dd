"""Guided proposals: where their gradients are taken, how far they go, and what they say of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_sampler import BOWL, SSP, Counting, bowl, last_of, sampler_of

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models import diffusion as fd
from feynkac.models.diffusion.gradients import pull_back
from feynkac.potentials import diffusion as fp
from feynkac.smc.engine import smc
from feynkac.smc.rng import Streams

NORMAL = fd.GaussianMixture([1.0], [[0.0, 1.0]], 0.5)
"""Its estimates are affine in the latent, so that each step of the gradient is the same map."""


def looked(sampler, n=6):
    state = sampler.init(n, Streams(0).at("init", 0))
    state.look()
    return state


@pytest.mark.parametrize("inner", [1, 2, 5])
@pytest.mark.parametrize("through", ["denoiser", "x0hat"])
@pytest.mark.parametrize("batch", [None, 4])
def test_inner_steps_follow_the_gradient_where_it_leads(through, inner, batch):
    reward = fk.reward(lambda x: -0.5 * (x - 2.0).square().sum(1), 3.0, batch=True)
    proposal = fd.Guided(reward, through=through, inner=inner, strength=0.7, trust=None)
    state = looked(sampler_of(NORMAL, proposal=proposal, batch=batch))
    variance = state.noise_level.variance(0.5)
    assert np.allclose(state.estimate_variance(), variance)  # the same as through the denoiser, for a normal law
    left = (1.0 - 3.0 * 0.7 * variance / inner) ** inner
    moved = state.prediction.estimate + state.leaves["toward"]
    assert torch.allclose(moved - 2.0, left * (state.prediction.estimate - 2.0), atol=1e-10)


def test_one_long_step_overshoots_where_many_short_ones_do_not():
    reward = fk.reward(lambda x: -0.5 * (x - 2.0).square().sum(1), 40.0, batch=True)
    off = []
    for inner in (1, 40):
        state = looked(sampler_of(NORMAL, proposal=fd.Guided(reward, inner=inner)))
        before, after = (
            x - 2.0 for x in (state.prediction.estimate, state.prediction.estimate + state.leaves["toward"])
        )
        off.append(float((after.norm(dim=1) / before.norm(dim=1)).max()))
    assert off[0] > 5.0 and off[1] < 1.0


@pytest.mark.parametrize("through", ["denoiser", "x0hat"])
def test_inner_steps_take_no_pass_of_the_network_and_keep_the_guess_of_the_first(through):
    asked = []

    def seen(x):
        asked.append(x.detach().clone())
        return bowl(x)

    denoiser, reward = Counting(), fk.reward(seen, batch=True)
    state = looked(sampler_of(denoiser, proposal=fd.Guided(reward, through=through, inner=3)))
    assert denoiser.calls == 1 and len(asked) == 3
    level = reward.level(0, state, np.arange(6))
    assert len(asked) == 3 and np.allclose(level, bowl(state.prediction.estimate).numpy())


SCHEDULES = {
    "ddpm": fd.ddpm(6), "ddim": fd.ddim(6, 0.4), "flow": fd.flow(6), "lcm": fd.lcm(5),
    "euler": fd.euler_ancestral([8.0, 2.0, 0.5]), "edm": fd.edm([8.0, 2.0, 0.5, 0.1], churn=0.4),
    "revisit": fd.revisit(fd.ddpm(4), 2),
}  # fmt: skip


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("through", ["denoiser", "x0hat"])
def test_a_reward_without_curvature_is_followed_as_the_optimal_kernel_does(through, schedule):
    """The kernel times psi of the next latent, exp(h E[x0 | x]) up to a constant: moved by std^2 h dx0hat / dx."""
    h = torch.tensor([1.0, -2.0]).double()
    proposal = fd.Guided(fk.reward(lambda x: x @ h, batch=True), through=through, trust=None)
    sampler = sampler_of(NORMAL, SCHEDULES[schedule], proposal=proposal)
    state = sampler.init(6, Streams(0).at("init", 0))
    for t, step in enumerate(sampler.schedule.transitions):
        state.look()
        if step.std > 0.0 and step.before.alpha > 0.0:
            x = torch.zeros(1, 2).double().requires_grad_()
            (slope,) = torch.autograd.grad(NORMAL.x0hat(x, step.after) @ h, x)
            assert torch.allclose(proposal.find_shift(state, step, state.x), step.std**2 * slope, rtol=1e-9), t
        state, _ = sampler.step(t, state, Streams(0).at("propose", t))


def test_the_coarse_last_steps_do_not_lose_the_evidence_of_an_observation():
    """One coordinate seen, twelve steps, and no bound: the error is below that of the model's own kernel."""
    prior = fd.GaussianMixture([0.7, 0.3], [[-2.0], [3.0]], 0.25)
    seen = fp.observed(fp.linear(torch.ones(1, 1)), torch.ones(1), noise=1.0)
    errors = []
    for proposal in (fd.BASE, fd.Guided(seen, trust=None)):
        sampler = fd.DiffusionSampler(prior, fd.ddpm(12), (1,), dtype=torch.float64, proposal=proposal)
        joint = sampler.join([sampler] * 199)
        *_, last = smc(joint, seen, n=[16] * 200, resample=SSP, rng=Streams(0))
        errors.append(np.std([last.group(g).log_z for g in range(200)]))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("inner", [0, 1.5, "2", True])
def test_what_is_no_number_of_inner_steps_is_refused(inner):
    with pytest.raises(ArgumentError, match="Guided: inner is"):
        fd.Guided(BOWL, inner=inner)


def test_a_bound_that_was_active_is_told_with_how_often():
    strong, weak = (
        fk.steer(sampler_of(proposal=fd.Guided(reward)), reward, particles=8, seed=0)
        for reward in (fk.reward(bowl, 1e6, batch=True), fk.reward(bowl, 1e-6, batch=True))
    )
    told = [each for each in strong.warnings if "the bound trust=1 of Guided was active" in each]
    assert told and told[0].endswith("(40 times)")  # 8 particles, and 5 steps that draw noise
    assert not any("trust" in each for each in weak.warnings)


class Numb:
    """A denoiser that leaves torch."""

    def x0hat(self, x, t):
        return torch.as_tensor(x.detach().numpy()) * 0.5


@pytest.mark.parametrize("batch", [None, 3])
def test_a_denoiser_without_a_gradient_is_named_and_not_the_reward(batch):
    sampler = sampler_of(Numb(), proposal=fd.Guided(BOWL, through="denoiser"), batch=batch)
    with pytest.raises(
        ModelError, match=r"the denoiser gives no gradient: something turns gradients off.*through='x0hat'"
    ):
        last_of(sampler, BOWL)


def test_a_gradient_that_overflows_in_the_network_names_the_row():
    class Steep:
        def x0hat(self, x, t):
            return torch.sqrt(x.abs() * 0.0) + 0.5 * x

    with pytest.raises(ModelError, match="through the network at step 0 is not finite for row 0"):
        last_of(sampler_of(Steep(), proposal=fd.Guided(BOWL, through="denoiser")), BOWL)


def test_small_and_large_gradients_pass_through_half_precision():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gradient = torch.tensor([1e-30, 1e-9, 1e6, 0.0])[:, None] * torch.tensor([[1.0, -0.25, 3.0]])
    estimate = (2.0 * x.half()).float()
    assert torch.allclose(pull_back(x, estimate, gradient, again=False), 2.0 * gradient, rtol=1e-3, atol=0.0)
