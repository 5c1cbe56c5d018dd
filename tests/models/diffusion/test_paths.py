"""Paths of pipelines: conditional SMC and particle Gibbs on images."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from test_pipeline import PIPELINES, SIZE, STEPS, bright, made

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.models import diffusion as fd
from feynkac.smc.conditional import csmc, gibbs
from feynkac.smc.resample import systematic
from feynkac.smc.rng import Streams

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

REWARD = fk.reward(bright, 20.0, batch=True)
GUIDED = fd.Guided(REWARD, trust=0.5)


def walked(model, n, seed, path=None):
    """The last state and all increments of `n` particles that are never resampled."""
    source, increments = Streams(seed), []
    state = model.init(n, source.at("init", 0, [n]))
    state.record()
    for t in range(STEPS):
        rng = source.at("propose", t, [n])
        state, inc = model.step(t, state, rng) if path is None else model.replay(t, state, rng, path)
        increments.append(inc)
    return state, np.array(increments)


@pytest.mark.parametrize("proposal", [fd.BASE, GUIDED], ids=["base", "guided"])
@pytest.mark.parametrize("name", PIPELINES)
def test_a_path_is_walked_again_bit_by_bit(name, proposal):
    pipe, _, call = made(name)
    model = fk.Diffusion.from_pipeline(pipe, STEPS, PIPELINES[name][2], proposal=proposal).prompt(**call)
    state, increments = walked(model, 3, 0)
    again, others = walked(model, 3, 0, model.trace(state, 0))
    assert torch.equal(state.x, again.x) and np.array_equal(increments, others)
    path = model.trace(state, 2)  # of another slot, among other particles
    again, _ = walked(model, 3, 1, path)
    assert all(torch.equal(a, b) for a, b in zip(path.latents, model.trace(again, 0).latents, strict=True))
    assert not torch.equal(again.x[1], state.x[1]) and torch.equal(again.x[0], state.x[2])


def test_images_from_images_start_where_the_path_started():
    diffusers = pytest.importorskip("diffusers")
    pipe, _, _ = made("sd15")
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = fk.Diffusion.from_pipeline(pipe, STEPS).prompt("a cat", image=picture, strength=0.75)
    *_, sweep = gibbs(model, REWARD, n=3, sweeps=2, rng=Streams(0), resample=systematic)
    *_, last = csmc(model, REWARD, sweep.path, n=2, rng=Streams(1))
    assert all(torch.equal(a, b) for a, b in zip(sweep.path.latents, model.trace(last.state, 0).latents, strict=True))
    assert len(sweep.path.latents) == STEPS  # it leaves out the noisiest level


def test_paths_of_another_pipeline_are_refused():
    _, model, _ = made("ddim")
    state, _ = walked(model, 2, 0)
    path = model.trace(state, 0)
    _, other, _ = made("sd15")
    with pytest.raises(ArgumentError, match="none of this sampler"):
        list(csmc(other, REWARD, path, n=2, rng=Streams(0)))
    with pytest.raises(ArgumentError, match="starts elsewhere"):
        list(csmc(model, REWARD, dataclasses.replace(path, seed=path.seed + 1), n=2, rng=Streams(0)))
    *_, last = csmc(model, REWARD, path, n=2, rng=Streams(0))
    assert torch.equal(last.state.x[0], path.latents[-1])


def test_particle_gibbs_by_the_front_door():
    pipe, _, _ = made("sd15")
    model = fk.Diffusion.from_pipeline(pipe, STEPS).prompt("a cat", **SIZE)
    result = fk.steer(model, REWARD, particles=3, algorithm="gibbs", sweeps=3, seed=0)
    assert all(sample.shape == (3, 16, 16) for sample in result.samples)


@pytest.mark.parametrize("proposal", [fd.BASE, GUIDED], ids=["base", "guided"])
def test_the_target_stays_and_the_inverse_evidence_is_unbiased(proposal):
    """Against many samples of the pipeline itself; exact paths by rejection, with the reward bounded by 0."""
    pipe, _, _ = made("ddim")

    def reward(images):
        return -((20.0 * (bright(images) - 0.52)) ** 2)

    model = fk.Diffusion.from_pipeline(pipe, STEPS)
    base, _ = walked(model, 1024, 7)
    images = torch.stack(base.samples(np.arange(1024)))
    weights, f = reward(images).double().exp().numpy(), images[:, 0, 0, 0].double().numpy()
    kept = np.flatnonzero(np.random.default_rng(0).random(1024) < weights)[:60]
    potential = fk.reward(reward, batch=True)
    model = fk.Diffusion.from_pipeline(
        pipe, STEPS, proposal=fd.Guided(potential, trust=0.2) if proposal is GUIDED else fd.BASE
    )
    found = []
    for k, row in enumerate(kept):
        *_, last = csmc(model, potential, model.trace(base, row), n=4, rng=Streams(k))
        pixel = torch.stack(last.state.samples(np.arange(4)))[:, 0, 0, 0].double().numpy()
        found.append([np.exp(last.log_weight) @ pixel / math.exp(last.log_z), math.exp(-last.log_z)])
    found, z = np.array(found), weights.mean()
    expected = np.array([(weights * f).mean() / z, 1.0 / z])
    errors = [(weights * (f - expected[0])).std() / z, weights.std() / z**2] / np.sqrt(1024)
    error = np.sqrt(found.var(0, ddof=1) / len(found) + errors**2)
    assert len(kept) == 60 and np.abs((found.mean(0) - expected) / error).max() < 3.0


@pytest.mark.parametrize("proposal", [fd.BASE, GUIDED], ids=["base", "guided"])
def test_paths_in_half_precision(proposal):
    pipe, _, _ = made("ddim")
    model = fk.Diffusion.from_pipeline(pipe.to(torch.bfloat16), STEPS, proposal=proposal)
    state, increments = walked(model, 3, 0)
    again, others = walked(model, 3, 0, model.trace(state, 0))
    assert torch.equal(state.x, again.x) and np.array_equal(increments, others)
