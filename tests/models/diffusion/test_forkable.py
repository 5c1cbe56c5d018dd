"""What a pipeline remembers of earlier steps stays with the slot when particles fork: it is found, and refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from test_pipeline import (
    SIZE,
    bright,
    clip,
    clip_tokenizer,
    ddim,
    flux,
    last_of,
    made,
    text_unet,
    vae,
)

import feynkac as fk
from feynkac.base.errors import ModelError
from feynkac.models import diffusion as fd
from feynkac.models.diffusion import forkable
from feynkac.models.diffusion.forkable import Twins
from feynkac.models.diffusion.pipeline_copy import copy_pipeline
from feynkac.smc import resample as schemes

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

CALL = {"prompt": "a cat", "max_sequence_length": 8, **SIZE}
REWARD = fk.reward(bright, 2000.0, batch=True)
HOOKS = diffusers.hooks
CACHES = {
    "first block": lambda pipe: HOOKS.FirstBlockCacheConfig(threshold=0.1),
    "pyramid attention": lambda pipe: HOOKS.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(0, 1000),
        spatial_attention_block_identifiers=("transformer_blocks",),
        current_timestep_callback=lambda: 500,
    ),
    "faster": lambda pipe: HOOKS.FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 901),
        spatial_attention_block_identifiers=("transformer_blocks",),
        unconditional_batch_skip_range=2,
        attention_weight_callback=lambda _: 0.5,
        current_timestep_callback=lambda: 500,
        is_guidance_distilled=True,
    ),
    "taylor": lambda pipe: HOOKS.TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1, max_order=1),
    "magnitude": lambda pipe: HOOKS.MagCacheConfig(num_inference_steps=4, mag_ratios=[1.0] * 4),
}


def steer(model, algorithm="smc", particles=8, **options):
    return fk.steer(model, REWARD, particles=particles, seed=0, algorithm=algorithm, ess_threshold=0.99, **options)


@pytest.mark.parametrize("name", CACHES)
def test_caches_of_diffusers_are_refused_by_name_before_anything_runs(name):
    torch.manual_seed(0)
    pipe = flux()
    pipe.set_progress_bar_config(disable=True)
    model = fk.Diffusion.from_pipeline(pipe, 4, 1.0).prompt(**CALL)
    pipe.transformer.enable_cache(CACHES[name](pipe))
    handle = pipe.transformer.register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
    for algorithm in ("smc", "beam", "gibbs"):
        with pytest.raises(
            ModelError, match=r"FluxPipeline cannot.* at earlier steps \(.*disable_cache\(\).*best_of_n"
        ):
            steer(model, algorithm)
    handle.remove()
    pipe.transformer.disable_cache()
    assert np.isfinite(steer(model, particles=2).log_evidence)


def test_a_cache_is_no_matter_where_nothing_is_copied():
    torch.manual_seed(0)
    pipe = flux()
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer.enable_cache(CACHES["first block"](pipe))
    model = fk.Diffusion.from_pipeline(pipe, 4, 1.0).prompt(**CALL)
    assert np.isfinite(steer(model, "best_of_n", 2).log_evidence)
    with pytest.raises(ModelError, match="disable_cache"):  # the engine itself, at the first fork
        last_of(model, REWARD, resample=schemes.ssp)


def test_a_cache_that_is_turned_on_while_the_pipeline_runs_is_refused_at_the_next_fork():
    torch.manual_seed(0)
    pipe = flux()
    pipe.set_progress_bar_config(disable=True)

    def turn_on(mine, step, time, tensors):
        if step == 1:
            pipe.transformer.enable_cache(CACHES["first block"](pipe))
        return tensors

    model = fk.Diffusion.from_pipeline(pipe, 6, 1.0).prompt(**CALL, callback_on_step_end=turn_on)
    with pytest.raises(ModelError, match="disable_cache") as said:
        steer(model, resampler=lambda log_weight, rng: schemes.ssp(log_weight, rng))  # which forks at every step
    assert said.value.step == 2


def test_the_modules_of_networks_are_listed_once_in_a_run_and_not_at_each_fork(monkeypatch):
    listed, list_modules = [], forkable.list_modules
    monkeypatch.setattr(forkable, "list_modules", lambda pipe: listed.append(1) or list_modules(pipe))
    model, counts = fk.Diffusion.from_pipeline(ddim(), 8), []
    for seed in (0, 1):
        listed.clear()
        result = fk.steer(model, REWARD, particles=8, seed=seed)
        counts.append((len(listed), len(result.history.resampled)))
    assert counts[0][0] == counts[1][0] < min(forks for _, forks in counts)


# --- what no hook tells of -------------------------------------------------------------------------------------------


class Remembers(diffusers.DDIMPipeline):
    """Keeps something from step to step, or for each sample, apart from its latents."""

    kind = "momentum"

    def __call__(self, batch_size=1, generator=None, num_inference_steps=4, eta=0.0):
        x = torch.stack([torch.randn(1, 8, 8, generator=each) for each in generator])
        drawn = torch.stack([torch.randn(1, 8, 8, generator=each) for each in generator])
        kept = torch.zeros_like(x)
        self.scheduler.set_timesteps(num_inference_steps)
        for k, t in enumerate(self.scheduler.timesteps):
            with torch.no_grad():
                output = self.unet(x, t).sample
            if self.kind == "momentum":
                kept = 0.9 * kept + 0.1 * output
                output = output + 0.5 * kept
            elif self.kind == "late momentum":
                kept = 0.9 * kept + 0.1 * output
                output = output + (0.5 * kept if k >= num_inference_steps // 2 else 0.0)
            elif self.kind == "a condition of each sample":
                output = output + 0.3 * drawn
            elif self.kind == "block cache":
                kept = output if k % 2 == 0 else kept
                output = kept
            x = self.scheduler.step(output, t, x, eta=eta, generator=generator).prev_sample
        return (x,)


def remembering(kind):
    torch.manual_seed(0)
    pipe = ddim(Remembers)
    pipe.kind = kind
    return pipe


KINDS = ("momentum", "late momentum", "a condition of each sample", "block cache")


@pytest.mark.parametrize("particles", [4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_pipeline_keeps_from_step_to_step_is_found_as_twins_part(kind, particles):
    model = fk.Diffusion.from_pipeline(remembering(kind), 12)
    with pytest.raises(ModelError, match=r"remembers earlier steps.*best_of_n"):
        steer(model, particles=particles)
    proposal = fd.Guided(fk.reward(bright, 1.0, batch=True))
    with pytest.raises(ModelError, match="remembers earlier steps"):
        steer(fk.Diffusion.from_pipeline(remembering(kind), 12, proposal=proposal), particles=particles)
    assert np.isfinite(steer(model, "importance", particles=particles).log_evidence)


def test_a_pipeline_that_remembers_nothing_raises_no_alarm():
    model = fk.Diffusion.from_pipeline(remembering("nothing"), 12)
    assert len(steer(model).history.resampled) > 2
    assert np.isfinite(steer(model, "gibbs", sweeps=2).log_evidence)


def test_the_momentum_of_semantic_guidance_is_refused_by_name():
    torch.manual_seed(0)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    pipe = diffusers.SemanticStableDiffusionPipeline(
        vae(), clip(), clip_tokenizer(), text_unet(16), scheduler, None, None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    edit = {"editing_prompt": ["dogs"], "edit_guidance_scale": 50.0, "edit_warmup_steps": 0, "edit_threshold": 0.1}
    edit |= {"edit_momentum_scale": 0.6, "edit_mom_beta": 0.6}
    model = fk.Diffusion.from_pipeline(pipe, 8).prompt("a cat", **SIZE, **edit)
    with pytest.raises(ModelError, match="cannot be steered with its momentum"):
        steer(model)


# --- twins leave each particle's law as it is ------------------------------------------------------------------------


def test_twins_are_copies_of_one_particle_of_their_own_problem():
    x = torch.randn(16, 3)
    twins, group = Twins(2), np.repeat([0, 1], 8)
    twins.pair(x, group)
    assert twins._pairs == []
    x[5], x[9], x[12] = x[2], x[2], x[8]
    twins.pair(x, group)
    assert twins._pairs == [(2, 5), (8, 12)], "rows 2 and 9 are no twins: they are of two problems"
    sources = [torch.Generator().manual_seed(k) for k in range(16)]
    noise = torch.stack([torch.randn(3, generator=each) for each in twins.share(sources)])
    assert torch.equal(noise[2], noise[5]) and torch.equal(noise[8], noise[12])
    assert len({float(row[0]) for row in noise}) == 14
    assert torch.equal(noise[0], torch.randn(3, generator=torch.Generator().manual_seed(0)))
    twins.pair(x, group)
    assert twins._pairs == [], "those who were twins part"


def test_twins_are_chosen_after_few_forks_only():
    twins, chosen = Twins(1), 0
    for _ in range(20):
        x = torch.randn(8, 3)
        x[1] = x[0]
        twins.pair(x, np.zeros(8, np.int64))
        chosen += len(twins._pairs)
        twins.pair(torch.randn(8, 3), np.zeros(8, np.int64))
    assert chosen == 5  # of 1, 2, 4, 8, 16
    twins.stop()
    x[1] = x[0]
    twins.pair(x, np.zeros(8, np.int64))
    assert twins._pairs == []


def test_rounding_is_no_memory():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(8, 50)
        x[1] = x[0]
        twins = Twins(1)
        twins.pair(x, np.zeros(8, np.int64))
        assert twins._pairs == [(0, 1)]
        output = torch.randn(8, 50).to(dtype)
        output[1] = output[0] * (1.0 + torch.finfo(dtype).eps)
        twins.compare(x, output)
        output[1] += 0.2
        with pytest.raises(ModelError, match="remembers"):
            twins.compare(x, output)


def test_samples_of_runs_that_fork_are_those_of_the_target():
    """Unnormalised means of runs with forks and twins, against samples that the pipeline makes by itself."""
    model = fk.Diffusion.from_pipeline(made("ddim")[0], 4, batch=256)
    reward = fk.reward(bright, 6.0, batch=True)
    whole = fk.steer(model, fk.reward(bright, 6.0, batch=True), particles=256, seed=0, algorithm="importance")
    weights = np.exp(whole.log_weights) * 256
    found = np.array(
        [np.exp(fk.steer(model, reward, particles=8, seed=s, ess_threshold=0.999).log_evidence) for s in range(1, 25)]
    )
    off = found.mean() - weights.mean()
    error = np.sqrt(found.var(ddof=1) / len(found) + weights.var(ddof=1) / len(weights))
    assert abs(off / error) < 3.9  # one false alarm in 10,000


def test_the_momentum_of_safe_guidance_is_refused_by_name():
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    pipe = diffusers.StableDiffusionPipelineSafe(
        vae(), clip(), clip_tokenizer(), text_unet(16), scheduler, None, None, requires_safety_checker=False
    )
    model = fk.Diffusion.from_pipeline(pipe, 8)
    with pytest.raises(ModelError, match=r"prompt\(..., sld_momentum_scale=0\.0\)"):
        model.prompt("a cat", **SIZE).check_forks()
    model.prompt("a cat", sld_momentum_scale=0.0, **SIZE).check_forks()
    model.prompt("a cat", sld_guidance_scale=0.0, **SIZE).check_forks()


def test_the_momentum_of_a_guider_is_refused_by_name_and_a_guider_is_not_written_to():
    from diffusers.guiders import AdaptiveProjectedGuidance

    pipe = ddim()
    pipe.guider = AdaptiveProjectedGuidance(adaptive_projected_guidance_momentum=-0.5)
    with pytest.raises(ModelError, match="momentum of its guider") as said:
        fk.Diffusion.from_pipeline(pipe, 8).check_forks()
    assert copy_pipeline(pipe).guider is not pipe.guider
    exec(re.search(r"set (pipe\..*?\))", str(said.value)).group(1), {"pipe": pipe})
    fk.Diffusion.from_pipeline(pipe, 8).check_forks()
