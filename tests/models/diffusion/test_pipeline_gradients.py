"""Gradients through the networks of pipelines: where they come from, in parts, in half precision, and who has none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from test_pipeline import PIPELINES, SIZE, STEPS, bright, ddim, made
from test_pipeline_parts import Odd, Plain, network_of, watched
from test_pipeline_whole import quiet

import feynkac as fk
from feynkac.base.errors import ModelError
from feynkac.models import diffusion as fd
from feynkac.models.diffusion.schedulers import prediction_of
from feynkac.smc.rng import Streams

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

REWARD = fk.reward(bright, 300.0, batch=True)


def guided(model, **options):
    return dataclasses.replace(model, proposal=fd.Guided(REWARD, through="denoiser", **{"trust": None, **options}))


def after(model, steps=1, n=3):
    """The particles after some steps, looked at."""
    rng = Streams(0)
    state = model.init(n, rng.at("init", 0))
    for t in range(steps):
        state, _ = model.step(t, state, rng.at("propose", t))
    state.look()
    return state


# --- the gradient -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_the_gradient_is_that_of_the_network_and_its_guidance(scale):
    pipe, model, _ = made("sd15")
    state = after(guided(model.prompt("a cat", guidance_scale=scale, **SIZE)))
    level, x = state.noise_level, state.x.clone().requires_grad_()
    wanted, not_wanted = pipe.encode_prompt("a cat", "cpu", 3, True)
    with torch.enable_grad():
        said = [pipe.unet(x, level.time, each).sample for each in (not_wanted, wanted)]
        output = said[0] + scale * (said[1] - said[0]) if scale > 1.0 else said[1]
        estimate = prediction_of(state.sampler.source._call.scheduler, output, x, level).x0hat
        total = 300.0 * bright(state.sampler.preview(estimate)).sum()
    (gradient,) = torch.autograd.grad(total, x)
    toward = level.sigma**2 / level.alpha * gradient
    assert float(toward.norm()) > 0.0
    assert torch.allclose(state.leaves["toward"], toward, rtol=1e-3, atol=1e-4 * float(toward.abs().max()))


@pytest.mark.parametrize("name", PIPELINES)
def test_parts_give_the_gradient_of_one_batch_and_the_network_runs_once_more(name):
    pipe, model, _ = made(name)
    if name in ("ddim", "ddpm"):  # or nothing of a random network's estimates would be within its bounds
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, clip_sample=False)
    with watched(network_of(pipe)) as rows:
        whole = after(guided(model))
        all_rows = len(rows)
    with watched(network_of(pipe)) as rows:
        parts = after(guided(dataclasses.replace(model, batch=1)))
    assert max(rows) <= 2 and len(rows) > 3 * all_rows, "a part at a time, again for its gradient"
    size = float(whole.leaves["toward"].abs().max())
    assert size > 0.0
    assert torch.allclose(parts.leaves["toward"], whole.leaves["toward"], rtol=1e-2, atol=1e-3 * size)


def test_the_first_step_goes_through_the_estimate():
    _, model, _ = made("ddim")
    through_x0hat = dataclasses.replace(model, proposal=fd.Guided(REWARD, trust=None))
    states = []
    for each in (guided(model), through_x0hat):
        state = each.init(3, Streams(0).at("init", 0)).begin()
        state.look()
        states.append(state.leaves["toward"])
    assert torch.equal(*states)


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("name", ["ddim", "sd15", "flux"])
def test_runs_through_the_network_end_and_leave_no_graph(name, batch):
    pipe, model, _ = made(name)
    result = fk.steer(guided(dataclasses.replace(model, batch=batch), trust=0.5, inner=2), REWARD, particles=4, seed=0)
    assert result.complete and np.isfinite(result.log_evidence) and np.ptp(result.log_weights) > 0.0
    assert torch.is_grad_enabled() and not any(sample.requires_grad for sample in result.samples)
    assert all(each.grad is None for each in network_of(pipe).parameters())


def test_particles_that_died_have_no_part_in_the_gradient():
    _, model, _ = made("ddim")
    model = guided(model, trust=0.5)
    alive = fk.constraint(lambda images: bright(images) > 0.5, every=1, batch=True)
    result = fk.steer(model, REWARD * alive, particles=6, seed=1, on_death="return")
    assert np.isfinite(result.log_weights).any() or result.log_evidence == -np.inf


def test_conditional_runs_and_compiled_networks_go_through_the_network():
    pipe, model, _ = made("ddim")
    wanted = fk.steer(guided(model, trust=0.5), REWARD, particles=3, seed=0)
    assert fk.steer(guided(model, trust=0.5), REWARD, particles=3, seed=0, algorithm="gibbs", sweeps=2).complete
    mine = quiet(diffusers.DDIMPipeline(torch.compile(pipe.unet, backend="eager"), pipe.scheduler))
    compiled = fk.Diffusion.from_pipeline(mine, STEPS)
    found = fk.steer(guided(compiled, trust=0.5), REWARD, particles=3, seed=0)
    assert abs(found.log_evidence - wanted.log_evidence) < 1e-4 * max(1.0, abs(wanted.log_evidence))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [5.0, 1e-6])
def test_half_precision_gives_the_gradient_of_single_precision(dtype, scale):
    torch.manual_seed(0)
    pipe = quiet(ddim())
    reward = fk.reward(bright, scale, batch=True)
    proposal = fd.Guided(reward, through="denoiser", trust=None)
    wanted = after(fk.Diffusion.from_pipeline(pipe, STEPS, proposal=proposal)).leaves["toward"]
    state = after(fk.Diffusion.from_pipeline(pipe.to(dtype), STEPS, proposal=proposal))
    found = state.leaves["toward"]
    assert found.dtype == torch.float32 and state.since.dtype == np.float64
    assert torch.nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.9
    assert 0.7 < float(found.norm() / wanted.norm()) < 1.4


def test_a_callback_may_write_to_the_latents_it_gives_back():
    _, model, call = made("sd15")
    seen = []

    def note(pipe, step, time, kept):
        seen.append(len(kept["latents"]))
        kept["latents"].mul_(1.0)
        return kept

    assert fk.steer(guided(model.prompt(**call, callback_on_step_end=note), trust=0.5), REWARD, particles=2).complete
    assert seen == [2] * STEPS


# --- who has none -----------------------------------------------------------------------------------------------------


class Inference(Plain):
    """A pipeline that runs in inference mode."""

    __call__ = torch.inference_mode()(Plain.__call__)


@pytest.mark.parametrize(
    ("cls", "network", "why"),
    [(Plain, Odd(""), "something turns gradients off"), (Inference, Odd(""), "it runs in torch.inference_mode")],
)
@pytest.mark.parametrize("batch", [None, 2])
def test_a_pipeline_that_turns_gradients_off_is_refused_by_name(cls, network, why, batch):
    model = fk.Diffusion.from_pipeline(cls(network, diffusers.DDIMScheduler()), 3, batch=batch)
    with pytest.raises(ModelError, match=rf"{cls.__name__} gives no gradient: {why}.*through='x0hat'"):
        fk.steer(guided(model), REWARD, particles=4, seed=0)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert fk.steer(model, REWARD, particles=4, seed=0).complete


def _offload(pipe):
    accelerate = pytest.importorskip("accelerate")
    accelerate.cpu_offload(pipe.unet, torch.device("cpu"))


MOVED = {
    "AlignDevicesHook": _offload,
    "GroupOffloadingHook": lambda pipe: pipe.unet.enable_group_offload(
        torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level"
    ),
    "LayerwiseCastingHook": lambda pipe: pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32),
}


@pytest.mark.parametrize("hook", MOVED)
def test_weights_that_are_put_away_after_each_call_are_refused_before_the_run(hook):
    pipe, model, _ = made("sd15")
    MOVED[hook](pipe)
    said = rf"StableDiffusionPipeline gives no gradient.*its unet are put away.*{hook}.*through='x0hat'"
    with pytest.raises(ModelError, match=said):
        fk.Diffusion.from_pipeline(pipe, STEPS, proposal=fd.Guided(REWARD, through="denoiser"))
    with pytest.raises(ModelError, match=said):
        fk.steer(guided(model), REWARD, particles=2)
