"""What a call of a pipeline is given for all particles, and which arguments leave nothing to steer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_pipeline import SIZE, STEPS, bright, ddim, last_of, plain_noise, sdxl, stable_diffusion

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError

diffusers = pytest.importorskip("diffusers", reason="pip install 'feynkac[diffusion]'")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

REWARD = fk.reward(bright, 20.0, batch=True)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def labelled():
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, norm_num_groups=4,
        num_class_embeds=10,
    )  # fmt: skip
    return quiet(diffusers.ConsistencyModelPipeline(network, diffusers.CMStochasticIterativeScheduler()))


@pytest.mark.parametrize("label", [3, [3]])
def test_a_label_is_that_of_all_particles(label):
    pipe = labelled()
    last = last_of(
        fk.Diffusion.from_pipeline(pipe, STEPS).prompt(class_labels=label), fk.reward(bright, 0.0, batch=True)
    )
    options = {"batch_size": 4, "num_inference_steps": STEPS, "generator": plain_noise(4), "output_type": "pt"}
    theirs = pipe(class_labels=[3] * 4, **options).images
    assert torch.equal(torch.stack(last.state.samples(np.arange(4))), theirs)


def test_problems_of_other_labels_are_the_problems_alone():
    base = fk.Diffusion.from_pipeline(labelled(), STEPS)
    models = [base.prompt(class_labels=label) for label in (1, 7)]
    both = fk.steer(models, REWARD, particles=4, seed=0)
    assert abs(both[0].log_evidence - fk.steer(models[0], REWARD, particles=4, seed=0).log_evidence) < 1e-3
    assert both[0].log_evidence != both[1].log_evidence


def test_a_call_that_ends_before_there_is_a_sample_is_refused():
    model = fk.Diffusion.from_pipeline(quiet(sdxl()), STEPS)
    with pytest.raises(ArgumentError, match=r"denoising_end=0\.5 ends before there is a sample.*leave it out"):
        model.prompt("a cat", denoising_end=0.5, **SIZE)
    model.prompt("a cat", denoising_end=None, **SIZE)


@pytest.mark.parametrize("strength", [0.0, np.float32(0.2), 0])
def test_a_strength_that_leaves_no_step_is_named(strength):
    pipe = quiet(stable_diffusion())
    changes = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    model = fk.Diffusion.from_pipeline(quiet(changes), STEPS)
    picture = torch.rand(1, 3, 16, 16)
    with pytest.raises(ArgumentError, match=f"strength={strength:g} leaves none of the 4 steps.*at least 1/4"):
        fk.steer(model.prompt("a cat", image=picture, strength=strength), REWARD, particles=2)
    fk.steer(model.prompt("a cat", image=picture, strength=1.0), REWARD, particles=2)


def test_embeddings_of_several_prompts_are_as_many_prompts():
    model = fk.Diffusion.from_pipeline(quiet(stable_diffusion()), STEPS)
    with pytest.raises(ArgumentError, match=r"prompt_embeds of shape \(3, 8, 16\) are those of 3 prompts"):
        model.prompt(prompt_embeds=torch.randn(3, 8, 16))
    model.prompt(prompt_embeds=torch.randn(1, 8, 16), guidance_scale=1.0)


def test_a_callback_that_interrupts_the_pipeline_is_told_of_other_ways():
    def stop(pipe, step, time, given):
        pipe._interrupt = True
        return given

    model = fk.Diffusion.from_pipeline(quiet(stable_diffusion()), STEPS)
    with pytest.raises(ModelError, match=r"ended after 1 of 4 steps.*Budget"):
        fk.steer(model.prompt("a cat", callback_on_step_end=stop, **SIZE), REWARD, particles=2)


class Differentiates(diffusers.DDIMPipeline):
    """Has latents that ask for their gradient, as pipelines have that change them along one."""

    def __call__(self, batch_size=1, generator=None, num_inference_steps=4, eta=0.0):
        x = torch.stack([torch.randn(1, 8, 8, generator=each) for each in generator])
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            x = x.detach().requires_grad_()
            x = self.scheduler.step(self.unet(x, t).sample, t, x, eta=eta, generator=generator).prev_sample
        return (x,)


@pytest.mark.parametrize("algorithm", ["smc", "importance"])
def test_latents_that_ask_for_their_gradient_are_steered(algorithm):
    torch.manual_seed(0)
    model = fk.Diffusion.from_pipeline(ddim(Differentiates), STEPS)
    result = fk.steer(model, REWARD, particles=4, seed=0, algorithm=algorithm)
    assert not any(sample.requires_grad for sample in result.samples)


def test_what_the_last_step_expects_is_the_scheduler_s_own():
    """Consistency pipelines return what is expected at the last step, and not the latents."""
    parts = stable_diffusion().components
    scheduler, embedded = diffusers.LCMScheduler(original_inference_steps=50), {"time_cond_proj_dim": 16}
    network = type(parts["unet"]).from_config(parts["unet"].config, **embedded)
    parts |= {"scheduler": scheduler, "unet": network.eval()}
    pipe = quiet(diffusers.LatentConsistencyModelPipeline(**parts, requires_safety_checker=False))
    last = last_of(fk.Diffusion.from_pipeline(pipe, STEPS).prompt("a cat", **SIZE), fk.reward(bright, 0.0, batch=True))
    options = {"num_images_per_prompt": 4, "num_inference_steps": STEPS, "output_type": "latent", **SIZE}
    assert torch.equal(last.state.x, pipe("a cat", generator=plain_noise(4), **options).images)


def test_problems_of_other_arguments_are_told_which_and_what_to_do():
    base = fk.Diffusion.from_pipeline(stable_diffusion(), 2)
    cat = base.prompt("a cat", guidance_scale=2.0, **SIZE)
    for dogs in (base.prompt("dogs", **SIZE), base.prompt("dogs", guidance_scale=3.0, **SIZE)):
        with pytest.raises(ArgumentError, match=r"guidance_scale; .*one after the other"):
            fk.steer([cat, dogs], particles=2, seed=0)
