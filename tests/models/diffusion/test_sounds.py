"""Pipelines of sounds, whose latents have one dimension or are spectrograms: rewards see waveforms."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest
import torch
from test_pipeline import last_of, plain_noise, t5

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.models.diffusion.schedulers import schedule_of

diffusers = pytest.importorskip("diffusers", reason="pip install 'feynkac[diffusion]'")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

STEPS, RATE = 3, 64


def loud(waves):
    return waves.square().flatten(1).mean(1)


# --- a pipeline of which everything is known


class Velocity(torch.nn.Module):
    """The exact velocity of a flow to noise from sounds whose samples are N(0, variance), independent of each other."""

    def __init__(self, variance):
        super().__init__()
        self.variance = torch.nn.Parameter(torch.tensor(variance), requires_grad=False)
        self.config = types.SimpleNamespace(sample_size=RATE, sample_rate=RATE, in_channels=1)
        self.up_blocks, self.device = (), torch.device("cpu")

    def forward(self, x, time):
        sigma = time / 1000.0
        spread = (1.0 - sigma) ** 2 * self.variance + sigma**2
        return types.SimpleNamespace(sample=(sigma - (1.0 - sigma) * self.variance) / spread * x)


def test_the_evidence_of_sounds_is_that_of_the_closed_form():
    pipe = diffusers.DanceDiffusionPipeline(Velocity(0.04), diffusers.FlowMatchEulerDiscreteScheduler())
    pipe.set_progress_bar_config(disable=True)
    model = fk.Diffusion.from_pipeline(pipe, 8, 1.0, decode=lambda x: x).prompt(audio_length_in_s=0.5)
    # Each step of such a chain is linear, so that a sample is N(0, variance), whose mean is N(0, variance / 32).
    pipe.scheduler.set_timesteps(8)
    variance = 1.0
    for step in schedule_of(pipe.scheduler, 1.0).transitions:
        alpha, sigma = step.before.alpha, step.before.sigma
        slope = alpha * 0.04 / (alpha**2 * 0.04 + sigma**2)
        gain = step.after.alpha * slope + step.c * (1.0 - alpha * slope) / sigma
        variance = gain**2 * variance + step.std**2
    scale = 60.0
    exact = 0.5 * scale**2 * variance / 32
    reward = fk.reward(lambda x: x.mean((1, 2)), scale, batch=True)
    runs = np.array([last_of(model, reward, n=64, seed=seed).log_z for seed in range(12)])
    ratios = np.exp(runs - exact)
    error = ratios.std(ddof=1) / math.sqrt(len(ratios))
    assert abs(ratios.mean() - 1.0) < 4.0 * error and error < 0.1 and exact > 0.7


def test_a_sound_of_pixels_is_one_from_minus_one_to_one():
    pipe = diffusers.DanceDiffusionPipeline(Velocity(4.0), diffusers.FlowMatchEulerDiscreteScheduler())
    pipe.set_progress_bar_config(disable=True)
    result = fk.steer(fk.Diffusion.from_pipeline(pipe, STEPS, 1.0), fk.reward(loud, batch=True), particles=4, seed=0)
    assert result.samples[0].shape == (1, RATE)
    assert min(float(x.min()) for x in result.samples) == -1.0 and max(float(x.max()) for x in result.samples) == 1.0


# --- those of diffusers


def stable_audio():
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    encoder, tokenizer = t5()
    network = diffusers.StableAudioDiTModel(
        sample_size=4, in_channels=3, num_layers=1, attention_head_dim=4, num_attention_heads=2,
        num_key_value_attention_heads=2, out_channels=3, cross_attention_dim=4, time_proj_dim=8,
        global_states_input_dim=8, cross_attention_input_dim=4,
    ).eval()  # fmt: skip
    decoder = diffusers.AutoencoderOobleck(
        encoder_hidden_size=6, downsampling_ratios=[1, 2], decoder_channels=3, decoder_input_channels=3,
        audio_channels=2, channel_multiples=[2, 4], sampling_rate=4,
    ).eval()  # fmt: skip
    projection = StableAudioProjectionModel(text_encoder_dim=16, conditioning_dim=4, min_value=0, max_value=32).eval()
    scheduler = diffusers.EulerAncestralDiscreteScheduler()
    return diffusers.StableAudioPipeline(decoder, encoder, projection, tokenizer, network, scheduler)


def audioldm():
    text = transformers.ClapTextConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        projection_dim=16, pad_token_id=1, max_position_embeddings=80,
    )  # fmt: skip
    network = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=(8, 16), attention_head_dim=4, class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=16, class_embeddings_concat=True,
    ).eval()  # fmt: skip
    spectrograms = diffusers.AutoencoderKL(
        in_channels=1, out_channels=1, block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, latent_channels=4, norm_num_groups=4,
    ).eval()  # fmt: skip
    hifi = transformers.SpeechT5HifiGanConfig(
        model_in_dim=8, sampling_rate=160, upsample_initial_channel=8, upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]],
        normalize_before=False,
    )  # fmt: skip
    return diffusers.AudioLDMPipeline(
        spectrograms, transformers.ClapTextModelWithProjection(text).eval(), t5()[1], network,
        diffusers.DDIMScheduler(clip_sample=False), transformers.SpeechT5HifiGan(hifi).eval(),
    )  # fmt: skip


CASES = {
    "stable audio": (stable_audio, {"prompt": "a cat", "audio_end_in_s": 1.5}, {"num_waveforms_per_prompt": 3}),
    "audioldm": (audioldm, {"prompt": "a cat", "audio_length_in_s": 0.35}, {"num_waveforms_per_prompt": 3}),
}


def made(name):
    torch.manual_seed(0)
    build, call, many = CASES[name]
    pipe = build()
    pipe.set_progress_bar_config(disable=True)
    return pipe, fk.Diffusion.from_pipeline(pipe, STEPS).prompt(**call), call | many


@pytest.mark.parametrize("name", CASES)
def test_sounds_are_those_that_the_pipeline_returns(name):
    pipe, model, call = made(name)
    last = last_of(model, fk.reward(loud, 0.0, batch=True), n=3)
    theirs = pipe(**call, num_inference_steps=STEPS, eta=1.0, generator=plain_noise(3), output_type="pt").audios
    mine = torch.stack(last.state.samples(np.arange(3)))
    assert mine.shape == theirs.shape and torch.allclose(mine, torch.as_tensor(theirs), atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_rewards_of_sounds_steer(name):
    _, model, _ = made(name)
    result = fk.steer(
        model, fk.reward(lambda x: loud(x).log(), 1e3, batch=True), particles=6, seed=0, ess_threshold=0.99
    )
    assert result.history.resampled and np.isfinite(result.log_evidence)


def test_there_is_no_linear_preview_of_a_sound():
    pipe, _, _ = made("stable audio")
    with pytest.raises(ArgumentError, match="sounds"):
        fk.Diffusion.from_pipeline(pipe, STEPS, preview="linear")
