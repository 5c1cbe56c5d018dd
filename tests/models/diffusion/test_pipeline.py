"""Pipelines of diffusers, tiny and with random weights, steered as they stand."""

from __future__ import annotations

import dataclasses
import gc
import string

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.capabilities import Bounded
from feynkac.base.errors import ArgumentError, ModelError, PotentialError
from feynkac.models import diffusion as fd
from feynkac.smc import resample as schemes
from feynkac.smc.engine import smc
from feynkac.smc.rng import Streams

diffusers = pytest.importorskip("diffusers", reason="pip install 'feynkac[diffusion]'")
transformers = pytest.importorskip("transformers")

from feynkac.models.diffusion.pipeline import seed_generators  # noqa: E402  # needs diffusers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

STEPS = 4


# --- tiny pipelines --------------------------------------------------------------------------------------------------


def unet():
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )


def ddim(cls=None):
    return (cls or diffusers.DDIMPipeline)(unet(), diffusers.DDIMScheduler())


def ddpm():
    return diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler())


def vae(channels=4, **config):
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        **config,
    ).eval()


def clip_tokenizer():
    letters = [*string.ascii_lowercase, *(letter + "</w>" for letter in string.ascii_lowercase)]
    vocab = {piece: i for i, piece in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    return transformers.CLIPTokenizer(vocab, [], model_max_length=8)


def clip(cls=None, **config):
    options = {"vocab_size": 54, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "max_position_embeddings": 8, "projection_dim": 16}
    ends = {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    config = transformers.CLIPTextConfig(**options, **heads, **ends, **config)
    return (cls or transformers.CLIPTextModel)(config).eval()


def text_unet(width, **config):
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        **config,
    ).eval()


def stable_diffusion(scheduler=None):
    scheduler = scheduler or diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    )
    return diffusers.StableDiffusionPipeline(
        vae(), clip(), clip_tokenizer(), text_unet(16), scheduler, None, None, requires_safety_checker=False
    )


def sdxl():
    network = text_unet(
        32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
        use_linear_projection=True,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae(),
        clip(),
        clip(transformers.CLIPTextModelWithProjection),
        clip_tokenizer(),
        clip_tokenizer(),
        network,
        diffusers.EulerAncestralDiscreteScheduler(),
        add_watermarker=False,
    )


def t5():
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((x, -2.0) for x in string.ascii_lowercase)]
    tokenizer = transformers.T5TokenizerFast(vocab, extra_ids=0, model_max_length=8)
    config = transformers.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return transformers.T5EncoderModel(config).eval(), tokenizer


def sd3():
    network = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        out_channels=4,
    ).eval()
    projected = transformers.CLIPTextModelWithProjection
    return diffusers.StableDiffusion3Pipeline(
        network,
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae(scaling_factor=1.5, shift_factor=0.06),
        clip(projected),
        clip_tokenizer(),
        clip(projected),
        clip_tokenizer(),
        None,
        None,
    )


def flux():
    network = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    encoder, tokenizer = t5()
    return diffusers.FluxPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae(scaling_factor=1.5, shift_factor=0.06),
        clip(),
        clip_tokenizer(),
        encoder,
        tokenizer,
        network,
    )


def wan():
    encoder, tokenizer = t5()
    decoder = diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    network = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=16, freq_dim=32, ffn_dim=32, num_layers=1
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0)
    return diffusers.WanPipeline(tokenizer, encoder.eval(), decoder.eval(), scheduler, network.eval())


SIZE = {"height": 16, "width": 16}
PIPELINES = {
    "ddim": (ddim, {}, None),
    "ddpm": (ddpm, {}, None),
    "sd15": (stable_diffusion, {"prompt": "a cat", **SIZE}, None),
    "sdxl": (sdxl, {"prompt": "a cat", **SIZE}, None),
    "sd3": (sd3, {"prompt": "a cat", "max_sequence_length": 8, **SIZE}, 1.0),
    "flux": (flux, {"prompt": "a cat", "max_sequence_length": 8, **SIZE}, 0.8),
    "wan": (wan, {"prompt": "a cat", "negative_prompt": "x", "num_frames": 5, "max_sequence_length": 8, **SIZE}, 1.0),
}


def made(name, batch=None):
    torch.manual_seed(0)
    build, call, eta = PIPELINES[name]
    pipe = build()
    pipe.set_progress_bar_config(disable=True)
    model = fk.Diffusion.from_pipeline(pipe, steps=STEPS, eta=eta, batch=batch)
    return pipe, model.prompt(**call) if call else model, call


def bright(images):
    return images.mean(tuple(range(1, images.ndim)))


def last_of(model, potential, n=4, seed=0, resample=schemes.adaptive(schemes.ssp, 0.5)):  # noqa: B008
    *_, last = smc(model, potential, n=n, resample=resample, rng=Streams(seed))
    return last


def plain_noise(n, seed=0):
    return seed_generators(n, Streams(seed).at("init", 0, (n,)))


# --- the law is the pipeline's own -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ddim", "ddpm", "sd15", "sdxl"])
def test_without_a_reward_the_latents_are_those_of_the_pipeline_bit_by_bit(name):
    pipe, model, call = made(name)
    last = last_of(model, fk.reward(bright, 0.0, batch=True))
    many = {"num_images_per_prompt": 4} if call else {"batch_size": 4}
    eta = {"eta": 1.0} if name != "ddpm" else {}
    kind = "latent" if call else "pt"
    options = {"num_inference_steps": STEPS, "output_type": kind, **many, **eta, **call}
    theirs = pipe(generator=plain_noise(4), **options).images
    if name == "ddpm":  # its "pt" is numpy
        theirs = torch.as_tensor(np.asarray(theirs)).reshape(4, 1, 8, 8) if not torch.is_tensor(theirs) else theirs
    mine = last.state.x if call else torch.stack(last.state.samples(np.arange(4)))
    assert torch.equal(mine, theirs)
    assert last.log_z == 0.0


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux"])
def test_rewards_see_the_images_that_the_pipeline_would_return(name):
    pipe, model, _ = made(name, batch=3)
    seen = []
    last = last_of(model, fk.reward(lambda x: seen.append(x) or bright(x), 1.0, every="end", batch=True))
    assert [len(x) for x in seen] == [3, 1]  # in chunks
    with torch.no_grad():
        latents = last.state.x
        unpacked = pipe._unpack_latents(latents, 16, 16, pipe.vae_scale_factor) if name == "flux" else latents
        config = pipe.vae.config
        image = pipe.vae.decode(unpacked / config.scaling_factor + (config.shift_factor or 0.0)).sample
        image = pipe.image_processor.postprocess(image, output_type="pt")
    assert torch.allclose(torch.cat(seen), image, atol=1e-5) and image.shape == (4, 3, 16, 16)


class Sde(diffusers.FlowMatchEulerDiscreteScheduler):
    """The step of the SDE with the flow's marginals, written out."""

    eta, sources = 0.0, ()

    def step(self, model_output, timestep, sample, **_):
        t, s = (float(self.sigmas[self.timesteps.tolist().index(float(timestep)) + k]) for k in (0, 1))
        x0, eps = sample - t * model_output, sample + (1 - t) * model_output
        fresh = self.eta * s * (1 - ((1 - t) * s / ((1 - s) * t)) ** 2) ** 0.5
        noise = torch.cat([torch.randn((1, *sample.shape[1:]), generator=each) for each in self.sources])
        return ((1 - s) * x0 + (s**2 - fresh**2) ** 0.5 * eps + fresh * noise,)


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_flow_pipelines_run_as_the_sde_with_the_flow_s_marginals(name):
    pipe, model, call = made(name)
    last = last_of(model, fk.reward(bright, 0.0, batch=True))
    pipe.scheduler = Sde.from_config(pipe.scheduler.config)
    pipe.scheduler.eta, pipe.scheduler.sources = PIPELINES[name][2], plain_noise(4)
    options = {"num_images_per_prompt": 4, "num_inference_steps": STEPS, "output_type": "latent", **call}
    theirs = pipe(generator=pipe.scheduler.sources, **options).images
    assert (last.state.x - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("name", PIPELINES)
def test_every_pipeline_is_steered_end_to_end_and_left_as_it_was(name):
    pipe, model, _ = made(name)
    found, timesteps = dict(pipe.__dict__), getattr(pipe.scheduler, "timesteps", None)
    result = fk.steer(model, fk.reward(bright, 2000.0, batch=True), particles=6, seed=0, ess_threshold=0.999)
    assert pipe.__dict__ == found and pipe.scheduler.timesteps is timesteps and torch.is_grad_enabled()
    assert result.history.resampled, "the reward was meant to be strong"
    assert all(float(image.min()) >= 0.0 and float(image.max()) <= 1.0 for image in result.samples)
    assert np.isfinite(result.log_evidence)


def test_forked_particles_share_a_past_and_no_future():
    _, model, _ = made("ddim")

    class First:
        def __call__(self, log_weight, rng):
            return np.zeros(len(log_weight), np.int64), np.full(len(log_weight), -np.log(len(log_weight)))

    steps = smc(model, fk.reward(bright, 1.0, batch=True), n=4, resample=First(), rng=Streams(0))
    before, after = next(steps), next(steps)
    assert (after.rows[1:] == 0).all() and len({x.sum().item() for x in after.state.x}) == 4
    # Row 0 keeps its slot, hence its noise: it goes where it would have gone alone.
    alone = smc(model, fk.reward(bright, 1.0, batch=True), n=4, resample=schemes.never, rng=Streams(0))
    next(alone)
    assert torch.equal(next(alone).state.x[0], after.state.x[0]) and before.t == 0


def test_videos_are_decoded_as_the_pipeline_does():
    pipe, model, _ = made("wan")
    last = last_of(model, fk.reward(bright, 0.0, batch=True), n=2)
    mean, std = (
        torch.tensor(each).view(1, 16, 1, 1, 1) for each in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
    )
    with torch.no_grad():
        video = pipe.vae.decode(last.state.x * std + mean, return_dict=False)[0]
    video = pipe.video_processor.postprocess_video(video, output_type="pt")
    assert torch.allclose(torch.stack(last.state.samples(np.arange(2))), video, atol=1e-5)
    assert video.shape == (2, 5, 3, 16, 16)


def test_consistency_models_run_through_their_own_step():
    scheduler = diffusers.LCMScheduler(original_inference_steps=50)
    torch.manual_seed(0)
    pipe = stable_diffusion(scheduler)
    pipe.set_progress_bar_config(disable=True)
    last = last_of(fk.Diffusion.from_pipeline(pipe, STEPS).prompt("a cat", **SIZE), fk.reward(bright, 0.0, batch=True))
    options = {"num_images_per_prompt": 4, "num_inference_steps": STEPS, "output_type": "latent", **SIZE}
    assert torch.equal(last.state.x, pipe("a cat", generator=plain_noise(4), **options).images)


@pytest.mark.parametrize("proposal", [fd.BASE, fd.Guided(fk.reward(bright, 5.0, batch=True))])
def test_half_precision_stays_half_precision(proposal):
    torch.manual_seed(0)
    pipe = ddim().to(torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    seen = []
    pipe.unet.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    last = last_of(fk.Diffusion.from_pipeline(pipe, STEPS, proposal=proposal), fk.reward(bright, 5.0, batch=True))
    assert seen == [torch.bfloat16] * STEPS and np.isfinite(last.log_z)


def test_guided_proposals_are_weighted():
    pipe, _, _ = made("sd15")
    reward = fk.reward(bright, 5.0, batch=True)
    model = fk.Diffusion.from_pipeline(pipe, STEPS, proposal=fd.Guided(reward, trust=0.5)).prompt("a cat", **SIZE)
    assert np.isfinite(fk.steer(model, reward, particles=4, seed=0).log_evidence)


def test_prompts_in_one_batch_are_the_prompts_alone():
    pipe, _, _ = made("sd15")
    base = fk.Diffusion.from_pipeline(pipe, STEPS)
    models = [base.prompt(text, guidance_scale=5.0, **SIZE) for text in ("a cat", "dogs")]
    both = fk.steer(models, fk.reward(bright, 50.0, batch=True), particles=4, seed=0)
    first = fk.steer(models[0], fk.reward(bright, 50.0, batch=True), particles=4, seed=0)
    assert abs(both[0].log_evidence - first.log_evidence) < 1e-3
    assert both[0].log_evidence != both[1].log_evidence
    with pytest.raises(ArgumentError, match="guidance_scale"):
        fk.steer([models[0], base.prompt("dogs", guidance_scale=2.0, **SIZE)], particles=4)


def problems(name):
    """Three models that run in one batch: prompts, or for a pipeline without prompts the same problem three times."""
    _, model, call = made(name)
    texts = ("a cat", "dogs", "fish")
    return [model.prompt(**{**call, "prompt": text}) for text in texts] if call else [model] * 3


@pytest.mark.parametrize(
    "proposal", [fd.BASE, fd.Guided(fk.reward(bright, 50.0, batch=True), trust=0.5)], ids=["base", "guided"]
)
@pytest.mark.parametrize(("name", "scale"), [("ddim", 200.0), ("ddpm", 200.0), ("sd15", 200.0), ("flux", 3000.0)])
def test_each_problem_of_a_batch_is_a_population_of_its_own(name, scale, proposal):
    """Latents, weights, ESS and resampling are those of the problem alone, with the same numbers."""
    models = [dataclasses.replace(each, proposal=proposal) for each in problems(name)]
    options = {"resample": schemes.adaptive(schemes.ssp, 0.8)}
    reward = fk.reward(bright, scale, batch=True)
    together = list(smc(models[0].join(models[1:]), reward, n=[4] * 3, rng=Streams(0), **options))
    for g, model in enumerate(models):
        alone = list(smc(model, reward, n=4, rng=Streams(0, group=g), **options))
        here = slice(4 * g, 4 * g + 4)
        for both, mine in zip(together, alone, strict=True):
            part = both.group(g)
            assert part.resampled == mine.resampled and np.array_equal(part.rows, mine.rows)
            assert np.allclose(part.log_weight, mine.log_weight, atol=1e-5 * scale) and abs(part.ess - mine.ess) < 0.1
            assert torch.allclose(both.state.x[here], mine.state.x, atol=1e-4)
    resampled = np.array([step.resampled for step in together])
    assert resampled.any() and not resampled.all()
    assert len({round(step.log_z, 4) for step in map(together[-1].group, range(3))}) == 3


def test_a_reward_of_images_is_told_the_prompt():
    pipe, _, _ = made("sd15")
    base = fk.Diffusion.from_pipeline(pipe, STEPS)
    told = set()

    def of(images, problems):
        told.update((problem.index, problem.prompt) for problem in problems)
        return bright(images)

    fk.steer([base.prompt(text, **SIZE) for text in ("a cat", "dogs")], fk.reward(of, batch=True), particles=2, seed=0)
    assert told == {(0, "a cat"), (1, "dogs")}


def test_a_pipeline_without_prompts_is_steered_as_a_list():
    _, model, _ = made("ddim")
    results = fk.steer([model] * 3, fk.reward(bright, 50.0, batch=True), particles=5, seed=0)
    assert [len(result.samples) for result in results] == [5] * 3
    assert len({result.log_evidence for result in results}) == 3
    alone = fk.steer(model, fk.reward(bright, 50.0, batch=True), particles=5, seed=0)
    assert abs(results[0].log_evidence - alone.log_evidence) < 1e-3


def test_a_function_of_one_image_weighs_like_one_of_batches():
    _, model, _ = made("sd15")
    one, many = fk.reward(lambda image: bright(image[None])[0], 50.0), fk.reward(bright, 50.0, batch=True)
    found, wanted = (fk.steer(model, each, particles=4, seed=0) for each in (one, many))
    assert np.allclose(found.log_weights, wanted.log_weights, rtol=1e-6) and np.ptp(wanted.log_weights) > 0
    guided = fk.Diffusion.from_pipeline(model.pipe, STEPS, 1.0, proposal=fd.Guided(one)).prompt("a cat", **SIZE)
    assert np.isfinite(fk.steer(guided, one, particles=2, seed=0).log_evidence)


def test_a_pipeline_knows_how_long_its_runs_last():
    _, model, _ = made("ddim")
    assert isinstance(model, Bounded) and model.max_steps == STEPS


def test_guidance_without_weights_comes_with_a_warning():
    pipe, _, _ = made("ddim")
    reward = fk.reward(lambda image: image.mean())
    model = fk.Diffusion.from_pipeline(pipe, STEPS, proposal=fd.Guided(reward, weighted=False))
    result = fk.steer(model, reward, particles=2, seed=0)
    assert "no declared target" in result.warnings[0]


def test_functions_of_pil_images():
    _, model, _ = made("sd15")
    seen = []
    fk.steer(
        model,
        fk.reward(fd.on_pil(lambda images: [seen.append(i.size) or 0.0 for i in images]), batch=True),
        particles=2,
        seed=0,
    )
    assert set(seen) == {(16, 16)}


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_failing_reward_leaves_pipeline_and_gradient_mode_as_they_were():
    pipe, model, _ = made("ddim")
    found = dict(pipe.__dict__)
    calls = []

    def fails(images):
        calls.append(1)
        return images.sum() if len(calls) > 1 else bright(images)

    with pytest.raises(PotentialError) as caught:
        fk.steer(model, fk.reward(fails, batch=True), particles=3, seed=0)
    assert len(caught.value.partial.samples) == 3
    del caught
    gc.collect()
    assert pipe.__dict__ == found and torch.is_grad_enabled()
    with torch.no_grad():
        gc.collect()
        assert not torch.is_grad_enabled()


def test_an_error_of_the_pipeline_names_it_and_hands_over_the_particles():
    pipe, model, _ = made("ddim")
    calls = []
    pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1) or (len(calls) == 3 and 1 / 0) or None)
    with pytest.raises(ModelError, match="DDIMPipeline raised ZeroDivisionError") as caught:
        fk.steer(model, fk.reward(bright, every="end", batch=True), particles=3, seed=0)
    assert len(caught.value.partial.samples) == 3 and torch.is_grad_enabled()


def test_memory_that_runs_out_comes_with_a_suggestion():
    pipe, model, _ = made("ddim")

    def full(*_):
        raise torch.OutOfMemoryError("out of memory")

    pipe.unet.register_forward_pre_hook(full)
    with pytest.raises(ModelError, match="fewer particles"):
        fk.steer(model, particles=2)


class Twice(diffusers.DDIMPipeline):
    """Calls step two times for each prediction."""

    def __call__(self, batch_size=1, generator=None, num_inference_steps=4):
        x = torch.randn(batch_size, 1, 8, 8)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            with torch.no_grad():
                output = self.unet(x, t).sample
            x = self.scheduler.step(output, t, x, generator=generator).prev_sample
            x = self.scheduler.step(output, t, x, generator=generator).prev_sample
        return x


class Meddling(Twice):
    """Changes its latents between two steps."""

    def __call__(self, batch_size=1, generator=None, num_inference_steps=4):
        x = torch.randn(batch_size, 1, 8, 8)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self.unet(x, t).sample.detach(), t, x).prev_sample + torch.randn_like(x)
        return x


@pytest.mark.parametrize(("cls", "message"), [(Twice, "more than once"), (Meddling, "changes its latents")])
def test_pipelines_that_break_the_loop_are_refused(cls, message):
    with pytest.raises(ModelError, match=message):
        fk.steer(fk.Diffusion.from_pipeline(ddim(cls), steps=STEPS), particles=2, seed=0)


def test_schedulers_without_noise_or_with_memory_are_refused_before_anything_runs():
    multistep = stable_diffusion(diffusers.PNDMScheduler(skip_prk_steps=True))
    for pipe, eta, error, message in (
        (flux(), None, ArgumentError, r"set eta=1\.0"),
        (ddim(), 0.0, ArgumentError, "eta"),
        (multistep, None, ModelError, "PNDMScheduler.*from_config"),
    ):
        for network in (getattr(pipe, "unet", None), getattr(pipe, "transformer", None)):
            if network is not None:
                network.register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
        model = fk.Diffusion.from_pipeline(pipe, steps=STEPS, eta=eta)
        for algorithm in ("smc", "beam", "gibbs"):
            with pytest.raises(error, match=message):
                fk.steer(model, particles=4, algorithm=algorithm)
        with pytest.raises(error, match=message):
            fk.Diffusion.from_pipeline(pipe, STEPS, eta, proposal=fd.Guided(fk.reward(bright, batch=True)))


def test_arguments_are_checked():
    _, model, _ = made("ddim")
    pipe, text, _ = made("sd15")
    for bad in (0, True, 1.5):
        with pytest.raises(ArgumentError, match="steps"):
            fk.Diffusion.from_pipeline(pipe, steps=bad)
    with pytest.raises(ArgumentError, match="no pipeline"):
        fk.Diffusion.from_pipeline(object())
    with pytest.raises(ArgumentError, match="no argument 'prompt'"):
        model.prompt("a cat")
    with pytest.raises(ArgumentError, match="latents belongs"):
        text.prompt("a cat", latents=torch.zeros(1))
    with pytest.raises(ArgumentError, match="list of models"):
        text.prompt(["a cat", "a dog"])
    with pytest.raises(ArgumentError, match="3 particles for 2 prompts; give each the same number"):
        text.prompt("a cat").join([text.prompt("a dog")]).init(3, Streams(0).at("init", 0))
    with pytest.raises(ArgumentError, match="prompts of one pipeline"):
        fk.steer([text, model], particles=2)


class Wrapped(diffusers.DDIMPipeline):
    """Takes anything, and passes it on."""

    def __call__(self, *args, batch_size=1, brightness=0.0, **kwargs):
        return super().__call__(batch_size, *args, **kwargs)


def test_an_argument_that_a_pipeline_would_swallow_is_refused_with_what_was_meant():
    _, text, _ = made("sd15")
    for name, meant in (
        ("guidance", "; did you mean 'guidance_scale'"),
        ("negativ_prompt", "; did you mean 'negative_prompt'"),
        ("callback", "; did you mean 'callback_on_step_end'"),
        ("zzz", "; it has prompt, height, width"),
    ):
        with pytest.raises(ArgumentError, match=f"StableDiffusionPipeline has no argument '{name}'{meant}"):
            text.prompt("a cat", **{name: 3})
    assert text.prompt("a cat", guidance_scale=3.0, negative_prompt="a dog", clip_skip=1).calls[0]["clip_skip"] == 1


def test_what_a_pipeline_passes_on_to_the_class_above_is_an_argument():
    model = fk.Diffusion.from_pipeline(ddim(Wrapped), steps=2)
    assert model.prompt(use_clipped_model_output=False, brightness=1.0).calls[0]["brightness"] == 1.0
    with pytest.raises(
        ArgumentError, match="Wrapped has no argument 'use_clipped_output'; did you mean 'use_clipped_m"
    ):
        model.prompt(use_clipped_output=False)


def test_a_pipeline_that_names_no_argument_takes_any():
    class Opaque:
        scheduler = diffusers.DDIMScheduler()

        def __call__(self, **kwargs):
            pass

    assert fk.Diffusion.from_pipeline(Opaque(), steps=2).prompt("a cat", anything=1).calls[0]["anything"] == 1


@pytest.mark.parametrize("kind", [int, np.int64, np.int32, lambda value: torch.tensor(int(value))])
def test_whole_numbers_of_every_library_are_numbers_of_steps_and_rows(kind):
    model = fk.Diffusion.from_pipeline(ddim(), kind(3), batch=kind(2))
    assert type(model.steps) is int and type(model.batch) is int and (model.steps, model.batch) == (3, 2)


@pytest.mark.parametrize("eta", [np.float32(0.5), np.float64(0.5), 1, np.int64(1), 0.5])
def test_an_eta_of_every_library_is_a_number(eta):
    assert fk.Diffusion.from_pipeline(ddim(), 3, eta).eta == float(eta)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("steps", value) for value in ("3", 3.0, None, True, np.True_, float("nan"), -1, [3], torch.ones(2))),
        *(("batch", value) for value in ("3", 2.0, False, 0, -1)),
        *(("eta", value) for value in ("1", float("nan"), float("inf"), -0.5, True, np.float32("nan"), [1.0], 1j)),
    ],
)
def test_what_is_no_number_is_refused_by_the_name_of_its_argument(name, value):
    with pytest.raises(ArgumentError, match=rf"^{name} is .*; it must be an? (integer|number) of at least"):
        fk.Diffusion.from_pipeline(ddim(), **{name: value})
