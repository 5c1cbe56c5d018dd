"""Twisted proposals through the network of a pipeline: the sampler's own moves, and weights against quadrature."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from test_diffusion import PRIOR, Z_LIMIT, quadratic, right, truth, z_scores

import feynkac as fk
from feynkac.models import diffusion as fd
from feynkac.models.diffusion.schedulers import schedule_of
from feynkac.smc import resample as schemes
from feynkac.smc.engine import smc
from feynkac.smc.rng import Streams

diffusers = pytest.importorskip("diffusers")

STEPS, SCALE = 6, 0.5
REWARD = fk.reward(lambda x: quadratic(x.flatten(1)), SCALE, batch=True)


class Eps(torch.nn.Module):
    """The exact noise of a mixture in one dimension, for latents (R, 1, 1, 1)."""

    def __init__(self, bars):
        super().__init__()
        self.bars, self.unused = bars, torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t, push=None):
        bar = float(self.bars[int(t)])
        level = fd.NoiseLevel(bar**0.5, (1.0 - bar) ** 0.5, float(t))
        x0hat = PRIOR.x0hat(x.flatten(1), level).reshape(x.shape)
        eps = (x - level.alpha * x0hat) / level.sigma
        return (eps if push is None else eps + 0.2 * push.reshape(-1, 1, 1, 1) * x,)


class Mixture:
    """A pipeline of that network, which guides by what a condition changes, as classifier-free guidance does."""

    def __init__(self, dtype=torch.float64):
        self.scheduler, self.dtype = diffusers.DDIMScheduler(clip_sample=False), dtype
        self.unet = Eps(self.scheduler.alphas_cumprod)

    @torch.no_grad()
    def __call__(self, batch_size=1, generator=None, num_inference_steps=4, eta=0.0, guidance=0.0):
        x = torch.stack([torch.randn(1, 1, 1, generator=each, dtype=torch.float64) for each in generator])
        push = torch.cat([torch.zeros(len(x)), torch.ones(len(x))]).to(x)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            without, with_it = self.unet(torch.cat([x, x]), t, push=push)[0].chunk(2)
            output = without + guidance * (with_it - without)
            x = self.scheduler.step(output, t, x, eta=eta, generator=generator).prev_sample
        return (x,)


class Guidance:
    """The same law as a denoiser."""

    def __init__(self, guidance):
        self.scale = 0.2 * guidance

    def x0hat(self, x, t):
        clean = PRIOR.x0hat(x.flatten(1), t).reshape(x.shape)
        eps = (x - t.alpha * clean) / t.sigma + self.scale * x
        return (x - t.sigma * eps) / t.alpha


def chain():
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(STEPS)
    return schedule_of(scheduler)


def model_of(guidance, proposal, batch=None):
    pipe = fk.Diffusion.from_pipeline(Mixture(), STEPS, proposal=proposal, decode=lambda x: x, batch=batch)
    return pipe.prompt(guidance=guidance)


@pytest.mark.parametrize("batch", [None, 7])
@pytest.mark.parametrize("inner", [1, 3])
def test_a_pipeline_is_moved_as_the_sampler_that_is_its_law(inner, batch):
    proposal = fd.Guided(REWARD, through="denoiser", inner=inner, trust=None)
    model, rng = model_of(1.5, proposal, batch), Streams(0)
    state = model.init(16, rng.at("init", 0))
    sampler = fd.DiffusionSampler(Guidance(1.5), chain(), (1, 1, 1), proposal=proposal, dtype=torch.float64)
    for t in range(1, STEPS):
        state, _ = model.step(t - 1, state, rng.at("propose", t - 1))
        state.look()
        twin = fd.Latents(**{**vars(state), "sampler": sampler, "leaves": {}, "tape": None})
        twin.look()
        for name in ("x0hat", "epshat", "toward"):
            assert torch.allclose(state.leaves[name], twin.leaves[name], rtol=1e-4, atol=1e-5), (t, name)


@pytest.mark.parametrize("inner", [1, 3])
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_weights_through_the_network_of_a_pipeline_are_unbiased(guidance, inner):
    replicates, n = 80, 8
    model = model_of(guidance, fd.Guided(REWARD, through="denoiser", inner=inner, trust=0.3), replicates * n)
    expected = truth(Guidance(guidance), chain(), lambda x: SCALE * quadratic(x[:, None]))
    resample = schemes.adaptive(schemes.ssp, 0.5)
    joint = model.join([model] * (replicates - 1))
    *_, last = smc(joint, REWARD, n=[n] * replicates, resample=resample, rng=Streams(0))
    ends = itertools.pairwise([n * k for k in range(replicates + 1)])
    runs = [(last.log_weight[a:b], last.state.x[a:b].flatten(1).numpy()) for a, b in ends]
    z = z_scores(runs, expected, right)
    assert np.abs(z).max() < Z_LIMIT, f"z = {z}"


def test_what_is_drawn_through_the_network_without_weights_is_biased():
    """The test above can fail."""
    replicates, n = 80, 8
    model = model_of(0.0, fd.Guided(REWARD, through="denoiser", trust=0.3, weighted=False), replicates * n)
    expected = truth(Guidance(0.0), chain(), lambda x: SCALE * quadratic(x[:, None]))
    joint = model.join([model] * (replicates - 1))
    *_, last = smc(joint, REWARD, n=[n] * replicates, resample=schemes.ssp, rng=Streams(0))
    ends = itertools.pairwise([n * k for k in range(replicates + 1)])
    runs = [(last.log_weight[a:b], last.state.x[a:b].flatten(1).numpy()) for a, b in ends]
    assert np.abs(z_scores(runs, expected, right)).max() > 2 * Z_LIMIT
