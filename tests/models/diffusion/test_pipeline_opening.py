"""Pipelines that have no count of samples, or do not heed it: their inputs are repeated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_pipeline import bright, clip, clip_tokenizer, last_of, plain_noise, t5, text_unet, unet, vae

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models import diffusion as fd

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

STEPS = 3
REWARD = fk.reward(bright, 200.0, batch=True)
SIZE = {"height": 16, "width": 16}


def scheduler(**config):
    return diffusers.DDIMScheduler(clip_sample=False, **config)


def animatediff():
    motion = diffusers.MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=4, motion_num_attention_heads=2
    )
    return diffusers.AnimateDiffPipeline(vae(), clip(), clip_tokenizer(), text_unet(16), motion, scheduler())


def cogvideox():
    encoder, tokenizer = t5()
    network = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=2, num_layers=1,
        text_embed_dim=16, sample_width=2, sample_height=2, sample_frames=9, patch_size=1, max_text_seq_length=8,
        temporal_compression_ratio=4,
    ).eval()  # fmt: skip
    decoder = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
    ).eval()  # fmt: skip
    return diffusers.CogVideoXPipeline(tokenizer, encoder, decoder, network, diffusers.CogVideoXDDIMScheduler())


def video_to_video():
    """CogVideoX, which changes a given video."""
    parts = cogvideox().components
    return diffusers.CogVideoXVideoToVideoPipeline(**{**parts, "scheduler": scheduler()})


def dit():
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8, num_layers=1, sample_size=4,
        num_embeds_ada_norm=1000, norm_type="ada_norm_zero", norm_elementwise_affine=False,
    ).eval()  # fmt: skip
    return diffusers.DiTPipeline(network, vae(), scheduler())


def upscale():
    network = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=8, out_channels=5, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16, attention_head_dim=4,
        time_cond_proj_dim=144, time_embedding_type="fourier", timestep_post_act="gelu",
    ).eval()  # fmt: skip
    euler = diffusers.EulerAncestralDiscreteScheduler(prediction_type="sample")
    return diffusers.StableDiffusionLatentUpscalePipeline(vae(), clip(), clip_tokenizer(), network, euler)


LABEL = {"class_labels": 7}
VIDEO = {"prompt": "a cat", "num_frames": 8, "max_sequence_length": 8, "guidance_scale": 3.0, **SIZE}
CHANGED = {
    **{name: value for name, value in VIDEO.items() if name != "num_frames"},
    "video": torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
    "strength": 1.0,
}
MOVING = {"prompt": "a cat", "negative_prompt": "x", "num_frames": 4, **SIZE}
SMALL = {"prompt": "a cat", "image": torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))}
CASES = {
    "animatediff": (animatediff, MOVING, None),
    "animatediff without guidance": (animatediff, {**MOVING, "guidance_scale": 1.0}, None),
    "cogvideox": (cogvideox, VIDEO, 1.0),
    "video to video": (video_to_video, CHANGED, None),
    "dit": (dit, LABEL, None),
    "dit without guidance": (dit, {"class_labels": [7], "guidance_scale": 1.0}, None),
    "latent upscale": (upscale, SMALL, None),
}


def made(name):
    torch.manual_seed(0)
    build, call, eta = CASES[name]
    pipe = build()
    pipe.set_progress_bar_config(disable=True)
    return pipe, fk.Diffusion.from_pipeline(pipe, STEPS, eta).prompt(**call), call


@pytest.mark.parametrize("name", CASES)
def test_pipelines_without_a_count_of_samples_are_steered_by_repeating_their_inputs(name):
    _, model, _ = made(name)
    result = fk.steer(model, fk.reward(bright, 2000.0, batch=True), particles=3, seed=0, ess_threshold=0.999)
    assert len(result.samples) == 3 and np.isfinite(result.log_evidence) and result.history.resampled
    assert all(0.0 <= float(image.min()) <= float(image.max()) <= 1.0 for image in result.samples)
    last = last_of(model, fk.reward(bright, 0.0, batch=True), n=3)
    assert len({float(x.sum()) for x in last.state.x}) == 3
    assert last_of(model, fk.reward(bright, 0.0, batch=True), n=1).log_z == 0.0


def test_latents_of_repeated_prompts_are_those_of_a_list_of_prompts():
    pipe, model, call = made("animatediff")
    last = last_of(model, fk.reward(bright, 0.0, batch=True), n=3)
    lists = {**call, "prompt": ["a cat"] * 3, "negative_prompt": ["x"] * 3}
    options = {"num_inference_steps": STEPS, "output_type": "latent", "eta": 1.0}
    theirs = pipe(generator=plain_noise(3), **options, **lists).frames
    assert torch.equal(last.state.x, theirs)


def test_a_video_that_is_repeated_is_changed_as_it_is_alone():
    pipe, model, call = made("video to video")
    last = last_of(model, fk.reward(bright, 0.0, batch=True), n=2)
    options = {"num_inference_steps": STEPS, "output_type": "pt", "eta": 1.0, **call}
    theirs = torch.cat([pipe(generator=noise, **options).frames for noise in plain_noise(2)])
    assert torch.allclose(torch.stack(last.state.samples(np.arange(2))), theirs, atol=1e-5)


def test_videos_of_a_vae_of_images_are_decoded_frame_by_frame_as_the_pipeline_does():
    for name in ("animatediff", "cogvideox"):
        pipe, model, _ = made(name)
        last = last_of(model, fk.reward(bright, 0.0, batch=True), n=2)
        with torch.no_grad():
            video = pipe.video_processor.postprocess_video(pipe.decode_latents(last.state.x), output_type="pt")
        assert torch.allclose(torch.stack(last.state.samples(np.arange(2))), video, atol=1e-5)


def test_latents_that_are_held_twice_for_guidance_are_one_particle_each():
    pipe, model, _ = made("dit")
    last = last_of(model, fk.reward(bright, 0.0, batch=True), n=3)
    # The pipeline hands its scheduler no generator, so that it is told where to go instead.
    images, noise = torch.stack(last.state.samples(np.arange(3))), plain_noise(3)
    own = pipe.scheduler

    class Told(diffusers.DDIMScheduler):
        def step(self, output, t, x, **_):
            half = super().step(output[:3], t, x[:3], eta=1.0, generator=noise).prev_sample
            return diffusers.schedulers.scheduling_ddim.DDIMSchedulerOutput(torch.cat([half, half]))

    pipe.scheduler = Told.from_config(own.config)
    theirs = pipe(class_labels=[7] * 3, generator=noise, num_inference_steps=STEPS, output_type="pt").images
    assert torch.allclose(images, theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["animatediff", "dit"])
def test_problems_whose_inputs_are_repeated_are_the_problems_alone(name):
    _, model, call = made(name)
    other = {**call, **({"prompt": "dogs"} if "prompt" in call else {"class_labels": 9})}
    reward = fk.reward(bright, 300.0, batch=True)
    both = fk.steer([model, model.prompt(**other)], reward, particles=2, seed=0)
    alone = fk.steer(model, reward, particles=2, seed=0)
    assert abs(both[0].log_evidence - alone.log_evidence) < 1e-2 and both[0].log_evidence != both[1].log_evidence


class OneByOne(diffusers.DDIMPipeline):
    """Makes one sample in a call, and returns it as `kind`."""

    kind = torch.as_tensor

    def __call__(self, num_inference_steps=4, generator=None):
        if isinstance(generator, list):
            raise ValueError("a list of generators is not supported")
        made = super().__call__(1, generator, 1.0, num_inference_steps, output_type="np", return_dict=False)
        return (type(self).kind(made[0]),)


class Lists(OneByOne):
    kind = list


class Arrays(OneByOne):
    kind = np.asarray


@pytest.mark.parametrize("cls", [OneByOne, Lists, Arrays])
@pytest.mark.parametrize("algorithm", ["smc", "importance"])
def test_a_pipeline_that_makes_one_sample_in_a_call_is_called_for_each_particle(cls, algorithm):
    torch.manual_seed(0)
    pipe = cls(unet(), diffusers.DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    model = fk.Diffusion.from_pipeline(pipe, STEPS)
    mine = fk.steer(model, fk.reward(bright, 0.0, batch=True), particles=3, seed=0, algorithm=algorithm)
    noise = plain_noise(3)
    theirs = [torch.as_tensor(np.asarray(pipe(STEPS, each)[0]))[0].permute(2, 0, 1) for each in noise]
    assert torch.allclose(torch.stack(list(mine.samples)), torch.stack(theirs), atol=1e-6)
    assert mine.log_evidence == 0.0


def test_calls_for_one_particle_each_weigh_as_one_call_for_all():
    torch.manual_seed(0)
    network, noise = unet(), diffusers.DDIMScheduler()
    reward = fk.reward(bright, 2000.0, batch=True)
    options = {"particles": 4, "seed": 0, "ess_threshold": 0.999}
    pipes = diffusers.DDIMPipeline(network, noise), OneByOne(network, noise)
    one, each = (fk.steer(fk.Diffusion.from_pipeline(pipe, STEPS), reward, **options) for pipe in pipes)
    assert each.history.resampled == one.history.resampled != []
    assert abs(each.log_evidence - one.log_evidence) < 1e-3 * abs(one.log_evidence)


def test_gradients_go_through_calls_for_one_particle_each():
    torch.manual_seed(0)
    network, noise = unet(), diffusers.DDIMScheduler()
    pipes = diffusers.DDIMPipeline(network, noise), OneByOne(network, noise)
    guided = fd.Guided(REWARD, through="denoiser")
    models = [fk.Diffusion.from_pipeline(pipe, STEPS, proposal=guided) for pipe in pipes]
    one, each = (fk.steer(model, REWARD, particles=3, seed=0) for model in models)
    assert abs(each.log_evidence - one.log_evidence) < 1e-3


def test_a_run_of_one_call_for_each_particle_is_taken_up_again(tmp_path):
    torch.manual_seed(0)
    model = fk.Diffusion.from_pipeline(OneByOne(unet(), diffusers.DDIMScheduler()), STEPS)
    file, options = tmp_path / "run", {"particles": 3, "seed": 0}
    whole = fk.steer(model, REWARD, **options)
    for step in fk.stream(model, REWARD, checkpoint=file, **options):
        if step.t == 1:
            break
    assert fk.resume(file, model, REWARD).log_evidence == whole.log_evidence


def test_problems_of_one_call_for_each_particle_are_the_problems_alone():
    torch.manual_seed(0)
    model = fk.Diffusion.from_pipeline(OneByOne(unet(), diffusers.DDIMScheduler()), STEPS)
    both = fk.steer([model, model], REWARD, particles=2, seed=0)
    assert both[0].log_evidence == fk.steer(model, REWARD, particles=2, seed=0).log_evidence != both[1].log_evidence


def test_the_error_is_that_of_the_pipeline_where_repeating_does_not_help():
    pipe, model, _ = made("animatediff")
    pipe.unet.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(ValueError("a fault of its own")))
    with pytest.raises(ModelError, match="AnimateDiffPipeline raised ValueError: a fault of its own"):
        fk.steer(model, particles=2)
    with pytest.raises(ArgumentError, match="3 particles for 2 prompts"):
        model.join([model]).init(3, None)
