"""Runs in which no particle is copied, by any scheduler; and what a pipeline does after its last step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_pipeline import SIZE, STEPS, bright, clip, clip_tokenizer, last_of, made, plain_noise, stable_diffusion, unet

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models import diffusion as fd

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

WHOLE = {
    # Schedulers that draw no noise, remember earlier steps, call the network twice a step, or are unknown.
    "euler": lambda: diffusers.EulerDiscreteScheduler(),
    "dpm": lambda: diffusers.DPMSolverMultistepScheduler(),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(),
    "pndm": lambda: diffusers.PNDMScheduler(skip_prk_steps=True),
    "heun": lambda: diffusers.HeunDiscreteScheduler(),
    "kdpm2": lambda: diffusers.KDPM2AncestralDiscreteScheduler(),
}


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(model, algorithm, **options):
    return fk.steer(model, fk.reward(bright, 50.0, batch=True), particles=4, seed=0, algorithm=algorithm, **options)


@pytest.mark.parametrize("name", WHOLE)
def test_where_nothing_is_copied_any_scheduler_runs_as_the_pipeline_does(name):
    torch.manual_seed(0)
    pipe = quiet(stable_diffusion(WHOLE[name]()))
    model = fk.Diffusion.from_pipeline(pipe, STEPS).prompt("a cat", **SIZE)
    last = last_of(model, fk.reward(bright, 1.0, batch=True))
    options = {"num_images_per_prompt": 4, "num_inference_steps": STEPS, "output_type": "latent", **SIZE}
    assert torch.equal(last.state.x, pipe("a cat", generator=plain_noise(4), **options).images)


@pytest.mark.parametrize("algorithm", ["importance", "best_of_n"])
def test_importance_and_best_of_n_of_a_flow_without_noise(algorithm):
    pipe, _, call = made("flux")
    model = fk.Diffusion.from_pipeline(pipe, STEPS).prompt(**call)
    result = run(model, algorithm, islands=2)
    rewards = np.array([50.0 * float(image.mean()) for image in result.samples])
    assert np.allclose(result.log_weights, rewards - np.log(4), atol=1e-3) and np.ptp(rewards) > 0
    assert np.isclose(result.log_evidence, np.log(np.exp(rewards).mean()), atol=1e-3)
    assert result.log_evidence_se is not None and result.complete
    if algorithm == "best_of_n":
        assert torch.equal(result.best, result.samples[int(np.argmax(rewards))])
    both = fk.steer([model, model.prompt(**{**call, "prompt": "dogs"})], particles=2, seed=0, algorithm=algorithm)
    assert [len(each.samples) for each in both] == [2, 2]
    assert run(fk.Diffusion.from_pipeline(pipe, STEPS, eta=0.0).prompt(**call), algorithm).complete


@pytest.mark.parametrize("algorithm", ["importance", "best_of_n"])
def test_importance_and_best_of_n_of_a_denoiser_along_an_ode(algorithm):
    prior = fd.GaussianMixture([0.7, 0.3], [[-2.0, 0.0], [3.0, 1.0]], 0.5)
    for schedule in (fd.flow(20, eta=0.0), fd.ddim(20, eta=0.0)):
        sampler = fd.DiffusionSampler(prior, schedule, (2,), dtype=torch.float64)
        reward = fk.reward(lambda x: -(x**2).sum(1), batch=True)
        result = fk.steer(sampler, reward, particles=8, seed=0, algorithm=algorithm)
        values = np.array([-float((x**2).sum()) for x in result.samples])
        assert np.allclose(result.log_weights, values - np.log(8))
        for other in ("smc", "beam", "gibbs"):
            with pytest.raises(ArgumentError, match=r"draws no noise.*best_of_n"):
                fk.steer(sampler, reward, particles=8, algorithm=other)


def test_a_pipeline_without_an_eta_of_its_own_runs_whole_without_noise():
    """As those of DiT and Kandinsky do: their scheduler's own default is 0."""

    class Plain(diffusers.DDIMPipeline):
        def __call__(self, batch_size=1, generator=None, num_inference_steps=4, output_type="pil"):
            return super().__call__(batch_size, generator, 0.0, num_inference_steps, output_type=output_type)

    torch.manual_seed(0)
    pipe = quiet(Plain(unet(), diffusers.DDIMScheduler()))
    model = fk.Diffusion.from_pipeline(pipe, STEPS, eta=0.0)
    samples = torch.stack(list(run(model, "importance").samples))
    theirs = torch.as_tensor(pipe(4, plain_noise(4), STEPS, output_type="pt").images)
    assert torch.allclose(samples, theirs, atol=1e-6)
    pipe.scheduler = diffusers.TCDScheduler()  # whose own default draws noise
    with pytest.raises(ArgumentError, match="draws no noise"):
        fk.Diffusion.from_pipeline(pipe, STEPS, eta=0.0)


def test_an_eta_that_a_scheduler_without_noise_ignores_is_refused():
    for scheduler, eta in (
        (diffusers.UniPCMultistepScheduler(), 1.0),
        (diffusers.EulerAncestralDiscreteScheduler(), 0.0),
    ):
        with pytest.raises((ArgumentError, ModelError), match=r"cannot be steered|draws no noise"):
            fk.Diffusion.from_pipeline(stable_diffusion(scheduler), STEPS, eta)


@pytest.mark.parametrize(
    ("scheduler", "steps"),
    [
        (lambda: diffusers.DDIMScheduler(), 2000),
        (lambda: diffusers.LCMScheduler(original_inference_steps=50), 60),
    ],
)
def test_steps_that_a_scheduler_has_not_are_an_error_of_ours_with_the_cause(scheduler, steps):
    with pytest.raises(
        ArgumentError, match=rf"cannot be set to {steps} steps: .*give from_pipeline other steps="
    ) as said:
        fk.Diffusion.from_pipeline(stable_diffusion(scheduler()), steps)
    assert isinstance(said.value.__cause__, ValueError)


# --- after the last step ---------------------------------------------------------------------------------------------


class PutsBack(diffusers.StableDiffusionPipeline):
    """Puts what was given back into its latents once it has ended, as those do that go on from a given frame."""

    def __call__(self, prompt=None, num_images_per_prompt=1, output_type="pil", eta=0.0, **options):
        options |= {"num_images_per_prompt": num_images_per_prompt, "eta": eta}
        latents = super().__call__(prompt, output_type="latent", **options).images
        latents[:, :, :4] = 0.5
        if output_type == "latent":
            return diffusers.pipelines.stable_diffusion.StableDiffusionPipelineOutput(latents, None)
        image = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        images = self.image_processor.postprocess(image.detach(), output_type=output_type)
        return diffusers.pipelines.stable_diffusion.StableDiffusionPipelineOutput(images, None)


class Cut(diffusers.DDIMPipeline):
    """Of pixels, which it changes at its end; `kind` is what it returns."""

    kind = "pt"

    def run_steps(self, generator, steps, eta):
        x = torch.stack([torch.randn(1, 8, 8, generator=each) for each in generator])
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            with torch.no_grad():
                output = self.unet(x, t).sample
            x = self.scheduler.step(output, t, x, eta=eta, generator=generator).prev_sample
        return x

    def __call__(self, batch_size=1, generator=None, num_inference_steps=4, eta=0.0, output_type="pil"):
        x = self.run_steps(generator, num_inference_steps, eta)
        x = (x / 2 + 0.5).clamp(0, 1)
        x[:, :, :2] = 0.25
        return ({"pt": x, "np": x.permute(0, 2, 3, 1).numpy()}[self.kind],)


@pytest.mark.parametrize("scheduler", [None, diffusers.EulerDiscreteScheduler()], ids=["stepwise", "whole"])
def test_the_sample_is_what_the_pipeline_would_return_after_its_last_step(scheduler):
    torch.manual_seed(0)
    usual = stable_diffusion(scheduler)
    pipe = quiet(PutsBack(**usual.components, requires_safety_checker=False))
    model = fk.Diffusion.from_pipeline(pipe, STEPS).prompt("a cat", **SIZE)
    last = last_of(model, fk.reward(bright, 0.0, batch=True))
    options = {"num_images_per_prompt": 4, "num_inference_steps": STEPS, **SIZE}
    options |= {} if scheduler else {"eta": 1.0}
    theirs = pipe(prompt="a cat", generator=plain_noise(4), output_type="pt", **options).images
    assert (last.state.x[:, :, :4] == 0.5).all() and (last.state.x[:, :, 4:] != 0.5).all()
    assert torch.allclose(torch.stack(last.state.samples(np.arange(4))), theirs, atol=1e-5)


@pytest.mark.parametrize("kind", ["pt", "np"])
def test_pixels_that_are_changed_after_the_last_step_are_the_sample(kind):
    torch.manual_seed(0)
    pipe = quiet(Cut(unet(), diffusers.DDIMScheduler()))
    pipe.kind = kind
    seen = []
    reward = fk.reward(lambda x: seen.append(x) or bright(x), every="end", batch=True)
    result = fk.steer(fk.Diffusion.from_pipeline(pipe, STEPS), reward, particles=3, seed=0)
    samples = torch.stack(list(result.samples))
    assert torch.allclose(samples[:, :, :2], torch.tensor(0.25)) and samples[:, :, 2:].std() > 0.1
    assert torch.equal(torch.cat(seen), samples), "rewards see the same"


class Raw(Cut):
    """Returns pixels from about -1 to 1, as the pipelines of DeepFloyd do; `cut`: changed at the end."""

    cut = False

    def __call__(self, batch_size=1, generator=None, num_inference_steps=4, eta=0.0, output_type="pil"):
        x = self.run_steps(generator, num_inference_steps, eta)
        if self.cut:
            x = x.clone()
            x[:, :, :2] = -0.5
        return (x,)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("algorithm", ["smc", "importance"])
def test_pixels_from_minus_one_to_one_are_images_from_zero_to_one(cut, algorithm):
    torch.manual_seed(0)
    pipe = quiet(Raw(unet(), diffusers.DDIMScheduler()))
    pipe.cut = cut
    model = fk.Diffusion.from_pipeline(pipe, STEPS)
    result = fk.steer(model, fk.reward(bright, 0.0, batch=True), particles=3, seed=0, algorithm=algorithm)
    (theirs,) = pipe(generator=plain_noise(3), num_inference_steps=STEPS, eta=1.0)
    assert float(theirs.min()) < -0.4
    assert torch.allclose(torch.stack(list(result.samples)), (theirs / 2 + 0.5).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize("algorithm", ["importance", "best_of_n"])
def test_embeddings_are_shown_as_the_pipeline_returns_them(algorithm):
    torch.manual_seed(0)
    prior = diffusers.PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, embedding_dim=16, num_embeddings=8
    ).eval()
    prior.clip_std.data.fill_(3.0)
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8,
        projection_dim=16,
    )  # fmt: skip
    pipe = quiet(
        diffusers.KandinskyV22PriorPipeline(
            prior,
            transformers.CLIPVisionModelWithProjection(vision).eval(),
            clip(transformers.CLIPTextModelWithProjection),
            clip_tokenizer(),
            diffusers.UnCLIPScheduler(
                variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=5.0
            ),
            transformers.CLIPImageProcessor(),
        )
    )
    model = fk.Diffusion.from_pipeline(pipe, STEPS).prompt("a cat")
    result = fk.steer(model, fk.reward(bright, 0.0, batch=True), particles=3, seed=0, algorithm=algorithm)
    theirs = pipe("a cat", generator=plain_noise(3), num_inference_steps=STEPS, num_images_per_prompt=3).image_embeds
    assert float(theirs.abs().max()) > 1.0
    assert torch.allclose(torch.stack(list(result.samples)), theirs, atol=1e-5)


def test_pixels_that_are_not_changed_stay_bit_by_bit():
    _, model, _ = made("ddim")
    last = last_of(model, fk.reward(bright, 0.0, batch=True))
    shown = torch.stack(last.state.samples(np.arange(4)))
    assert torch.equal(shown, (last.state.x / 2 + 0.5).clamp(0, 1))


def test_ensembles_are_refused_by_name():
    pipe = diffusers.MarigoldDepthPipeline(
        unet=None, vae=None, scheduler=diffusers.DDIMScheduler(), text_encoder=None, tokenizer=None
    )
    with pytest.raises(ModelError, match=r"MarigoldDepthPipeline cannot be steered: .*ensemble"):
        fk.Diffusion.from_pipeline(pipe, STEPS)
