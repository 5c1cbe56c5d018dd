"""Previews of pipelines: cheap, of the right shape, close to the VAE where it can be, and without a part in the law."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_pipeline import SIZE, STEPS, bright, last_of, made, stable_diffusion
from torch.nn import functional as F

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.models import diffusion as fd
from feynkac.models.diffusion.decoding import decoder_of
from feynkac.models.diffusion.preview import FIELDS, Linear, _draw_smooth

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

Z_LIMIT = 3.0


class AffineVae(torch.nn.Module):
    """Colours affine in the latent, twice the size."""

    def __init__(self, channels):
        super().__init__()
        self.config = SimpleNamespace(scaling_factor=0.5, latent_channels=channels, block_out_channels=(8, 8))
        self.weight = torch.nn.Parameter(0.1 / channels * torch.randn(3, channels, 1, 1))
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def decode(self, z, return_dict=True):
        return (F.interpolate(F.conv2d(z, self.weight) + 0.1, scale_factor=2, mode="bilinear"),)


def small(pipe, **options):
    return fk.Diffusion.from_pipeline(pipe, STEPS, batch=3, **options).prompt("a cat", **SIZE)


def decodes(pipe):
    """How many latents the VAE is given, and whether with a gradient, from now on."""
    calls, decode = [], pipe.vae.decode
    pipe.vae.decode = lambda z, *args, **options: calls.append((len(z), z.requires_grad)) or decode(z, *args, **options)
    return calls


@pytest.mark.parametrize(("channels", "side"), [(4, 8), (16, 8), (4, 40)])
def test_the_linear_preview_of_an_affine_vae_is_the_vae(channels, side):
    pipe, _, _ = made("sd15")
    pipe.vae = AffineVae(channels)
    decoder = decoder_of(pipe)
    latents = torch.randn(5, channels, side, side, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(Linear(decoder, {})(latents), decoder(latents), atol=1e-5)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux", "wan"])
def test_a_linear_preview_has_the_shape_of_the_sample_and_follows_it(name):
    """A VAE with random weights is far from linear; yet on the fields of the fit nothing linear is closer."""
    pipe, _, _ = made(name)
    decoder = decoder_of(pipe, SIZE)
    preview = Linear(decoder, {})
    fields = _draw_smooth(FIELDS, (16, 2, 8, 8) if name == "wan" else (4, 8, 8))
    with torch.no_grad():
        latents = pipe._pack_latents(fields, FIELDS, 4, 8, 8) if name == "flux" else fields
        shown, full = preview(latents), decoder(latents)
    assert shown.shape == full.shape and shown.dtype == full.dtype
    assert 0.0 <= float(shown.min()) <= float(shown.max()) <= 1.0
    constant = full.mean((0, 1, 3, 4) if full.ndim == 5 else (0, 2, 3), keepdim=True)
    assert ((full - shown) ** 2).sum() < ((full - constant) ** 2).sum()


def test_the_default_decodes_the_final_samples_only():
    pipe, _, _ = made("sd15")
    calls, seen = decodes(pipe), []
    model = small(pipe)
    for seed in range(2):
        fk.steer(model, fk.reward(lambda x: seen.append(x.shape[1:]) or bright(x), batch=True), particles=4, seed=seed)
    assert [n for n, _ in calls] == [1] * FIELDS + [3, 1] * 2  # the fit, once; then the samples of both runs
    assert set(seen) == {(3, 16, 16)}


def test_guided_proposals_need_no_gradient_of_the_vae():
    pipe, _, _ = made("sd15")
    calls, reward = decodes(pipe), fk.reward(bright, 5.0, batch=True)
    assert np.isfinite(last_of(small(pipe, proposal=fd.Guided(reward)), reward).log_z)
    assert not any(graph for _, graph in calls)
    calls.clear()
    last_of(small(pipe, proposal=fd.Guided(reward), preview="full"), reward)
    assert any(graph for _, graph in calls)


def test_full_previews_are_the_decoder_s():
    pipe, _, _ = made("sd15")
    calls = decodes(pipe)
    last_of(small(pipe, preview="full"), fk.reward(bright, 1.0, batch=True))
    assert [n for n, _ in calls] == [1] + [3, 1] * STEPS  # the first to try it


def test_a_small_vae_stands_in_for_guesses_alone():
    pipe, _, _ = made("sd15")
    torch.manual_seed(1)
    tiny = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4,
    ).eval()  # fmt: skip
    seen = []
    last = last_of(
        small(pipe, preview=tiny), fk.reward(lambda x: seen.append(x) or bright(x), 1.0, every=STEPS - 1, batch=True)
    )
    with torch.no_grad():
        denoised = last.state.denoised
    assert [len(x) for x in seen] == [3, 1, 3, 1] and denoised.shape == (4, 4, 8, 8)
    first, final = torch.cat(seen[:2]), torch.cat(seen[2:])
    decoder = decoder_of(pipe, SIZE)
    with torch.no_grad():
        assert torch.allclose(final, decoder(last.state.x), atol=1e-5)
    assert first.shape == final.shape and not torch.allclose(first, final, atol=1e-2)


def nonsense(latents):
    """Images that have nothing to do with the samples."""
    return torch.rand(len(latents), 3, 16, 16, generator=torch.Generator().manual_seed(len(latents)))


@pytest.mark.parametrize("preview", ["linear", "full", nonsense], ids=["linear", "full", "nonsense"])
def test_no_preview_changes_the_law(preview):
    """Evidence, and unnormalised a pixel's mean, against samples that the pipeline makes by itself."""
    torch.manual_seed(0)
    pipe = stable_diffusion()
    pipe.set_progress_bar_config(disable=True)

    def reward(images):
        return 40.0 * (bright(images) - 0.47)

    model = fk.Diffusion.from_pipeline(pipe, 2, preview=preview, batch=256).prompt("a cat", guidance_scale=1.0, **SIZE)
    base = fk.steer(model, fk.reward(reward, every="end", batch=True), particles=512, algorithm="importance", seed=0)
    weights = np.exp(base.log_weights) * 512
    pixels = np.array([float(image[0, 0, 0]) for image in base.samples])
    found = []
    for seed in range(1, 33):
        result = fk.steer(model, fk.reward(reward, batch=True), particles=8, seed=seed)
        w = np.exp(result.log_weights)
        found.append([w.sum(), w @ [float(image[0, 0, 0]) for image in result.samples]])
    expected = np.stack([weights, weights * pixels], 1)
    off = np.mean(found, 0) - expected.mean(0)
    error = np.sqrt(np.var(found, 0, ddof=1) / len(found) + expected.var(0, ddof=1) / len(expected))
    assert np.abs(off / error).max() < Z_LIMIT
    assert weights.var() > 0.05, "a reward without effect proves nothing"


def test_pixels_are_their_own_preview():
    pipe, _, _ = made("ddim")
    for preview in (None, "linear", "full"):
        model = fk.Diffusion.from_pipeline(pipe, STEPS, preview=preview)
        sampler = last_of(model, fk.reward(bright, 1.0, batch=True)).state.sampler
        assert sampler.preview is sampler.decode


def test_bad_previews_are_refused():
    pipe, _, _ = made("sd15")
    for bad in ("fast", 3):
        with pytest.raises(ArgumentError, match="'linear' or 'full'"):
            small(pipe, preview=bad)
    with pytest.raises(ArgumentError, match="decode= is given"):
        small(pipe, preview="linear", decode=lambda x: x)
    with pytest.raises(ArgumentError, match="no VAE"):
        fk.Diffusion.from_pipeline(made("ddim")[0], STEPS, preview=pipe.vae)
    assert small(pipe, decode=nonsense) != small(pipe) == small(pipe)
