"""Composition by attention: what the processor computes, what is kept, and whose network is not written to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.models import diffusion as fd
from feynkac.models.diffusion.composing import Steering, copy_steered

diffusers = pytest.importorskip("diffusers")

LEVEL = fd.NoiseLevel(0.8, 0.6, 300.0)
MASK = torch.zeros(8, 8, dtype=torch.bool)
MASK[2:6, 2:6] = True
PICTURE = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(5)).clamp(-1, 1)


def pixart():
    torch.manual_seed(0)
    return diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=3, num_layers=2,
        cross_attention_dim=16, sample_size=8, patch_size=2,
    ).eval().requires_grad_(False)  # fmt: skip


WORDS = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(6))


def call(network, x, time):
    times, said = torch.full((len(x),), time), WORDS.expand(len(x), -1, -1)
    return network(x, encoder_hidden_states=said, timestep=times, return_dict=False)[0]


def composed(network, **options):
    return fd.ComposedDenoiser(network, call, PICTURE, MASK, **options)


def attention(crossing):
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(1)
    width = {"cross_attention_dim": 6} if crossing else {}
    layer = Attention(4, heads=2, dim_head=3, **width)
    return layer.double().requires_grad_(False)


def by_hand(layer, x, context, change):
    """The layer's output, head by head, with its weights (R, L, K) changed."""
    whole = []
    for h in range(2):
        part = slice(3 * h, 3 * h + 3)
        q, k, v = (
            each @ to.weight.T[:, part] for each, to in ((x, layer.to_q), (context, layer.to_k), (context, layer.to_v))
        )
        whole.append(change(q @ k.mT / math.sqrt(3)) @ v)
    out = torch.cat(whole, -1)
    return out @ layer.to_out[0].weight.T + layer.to_out[0].bias


def test_inside_of_the_mask_latents_attend_as_those_of_row_0_do():
    x = torch.randn(3, 16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    layer, inside = attention(False), torch.nn.functional.max_pool2d(MASK[None].float(), 2).flatten() > 0

    def change(scores):
        weights = scores.softmax(-1)
        for row in range(3):
            weights[row, inside] = weights[0, inside]
        return weights

    layer.set_processor(Steering(MASK, ()))
    assert 0 < inside.sum() < 16
    assert torch.allclose(layer(x), by_hand(layer, x, x, change), atol=1e-12)


def test_outside_of_the_mask_the_words_are_not_heard():
    source = torch.Generator().manual_seed(2)
    x = torch.randn(2, 16, 4, dtype=torch.float64, generator=source)
    words = torch.randn(2, 3, 6, dtype=torch.float64, generator=source)
    layer, inside = attention(True), torch.nn.functional.max_pool2d(MASK[None].float(), 2).flatten() > 0

    def change(scores):
        scores = scores.clone()
        scores[:, ~inside, 1] = -math.inf
        return scores.softmax(-1)

    layer.set_processor(Steering(MASK, (1,)))
    assert torch.allclose(layer(x, words), by_hand(layer, x, words, change), atol=1e-12)


def test_the_picture_itself_is_denoised_as_by_the_network_alone():
    """Row 0 attends as it would anyway: where nothing is to be steered the processor is the network's own attention."""
    network = pixart()
    steered = copy_steered(network, Steering(MASK, ()))
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    said, plain = call(steered, x, 300.0), call(network, x, 300.0)
    assert torch.allclose(said[0], plain[0], atol=1e-5)
    assert all((said[row] - plain[row]).abs().max() > 1e-3 for row in (1, 2, 3))
    same = x[:1].expand(4, -1, -1, -1)
    assert torch.allclose(call(steered, same, 300.0), call(network, same, 300.0), atol=1e-5)


def test_the_network_of_the_user_is_not_written_to():
    network = pixart()
    processors, state = network.attn_processors, {name: value.clone() for name, value in network.state_dict().items()}
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    before = call(network, x, 300.0)
    denoiser = composed(network, words=(0,))
    denoiser.x0hat(x, LEVEL)
    assert all(each is network.attn_processors[name] for name, each in processors.items())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(call(network, x, 300.0), before)
    copied = copy_steered(network, Steering(MASK, ()))
    pairs = zip(network.parameters(), copied.parameters(), strict=True)
    assert all(one.data_ptr() == other.data_ptr() for one, other in pairs)  # no memory of its own


def test_the_background_is_kept_bit_by_bit_and_batches_do_not_matter():
    network, schedule = pixart(), fd.ddpm(4)
    denoiser = composed(network, words=(0,), clip=1.0, until=0.5)
    red = fk.reward(lambda image: 3.0 * image[0].mean())
    whole, parts = (
        fk.steer(fd.DiffusionSampler(denoiser, schedule, (3, 8, 8), batch=batch), red, particles=6, seed=0)
        for batch in (None, 4)
    )
    for one, other in zip(whole.samples, parts.samples, strict=True):
        assert torch.equal(one[:, ~MASK], PICTURE[:, ~MASK]) and not torch.equal(one[:, MASK], PICTURE[:, MASK])
        assert torch.allclose(one, other, atol=1e-4)
    assert np.isfinite(whole.log_evidence) and whole.log_evidence == pytest.approx(parts.log_evidence, abs=1e-3)


def test_above_its_start_the_picture_is_expected_and_below_the_end_nothing_is_steered():
    network = pixart()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(composed(network, start=0.5).x0hat(x, LEVEL), PICTURE.expand(2, -1, -1, -1))
    plain = fd.Network(lambda x, time: call(network, x, time)).x0hat(x, LEVEL)
    assert torch.equal(composed(network, until=0.7).x0hat(x, LEVEL), torch.where(MASK, plain, PICTURE))
    assert not torch.allclose(composed(network).x0hat(x, LEVEL), torch.where(MASK, plain, PICTURE), atol=1e-3)


def test_what_cannot_be_composed_is_refused():
    with pytest.raises(ArgumentError, match=r"picture of shape \(3, 8, 8\) and a mask of \(4, 4\)"):
        fd.ComposedDenoiser(pixart(), call, PICTURE, MASK[:4, :4])
    with pytest.raises(ArgumentError, match=r"attention of Linear cannot be steered \(none\)"):
        fd.ComposedDenoiser(torch.nn.Linear(2, 2), call, PICTURE, MASK)
    flux = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    with pytest.raises(ArgumentError, match=r"FluxTransformer2DModel cannot be steered.*PixArt"):
        fd.ComposedDenoiser(flux, call, PICTURE, MASK)
    with pytest.raises(ArgumentError, match=r"16 tokens do not cover a mask of shape \(6, 6\)"):
        Steering(torch.ones(6, 6), ()).steer(torch.zeros(1, 1, 16, 16), crossing=False)
    with pytest.raises(ArgumentError, match=r"words=\[0, 1, 2\].*nothing else to hear"):
        composed(pixart(), words=(0, 1, 2)).x0hat(torch.zeros(1, 3, 8, 8), LEVEL)
    with pytest.raises(ArgumentError, match=r"words=\[7\].*of 3 tokens"):
        composed(pixart(), words=(7,)).x0hat(torch.zeros(1, 3, 8, 8), LEVEL)
