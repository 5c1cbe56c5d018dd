"""A subject put into a background, with its look steered by attention (PrimeComposer).

The picture to begin with is the subject pasted on the background. It goes along through the network as one more row,
noised to the level of the latents; where its subject is, the latents attend to each other as those of the picture do,
and words that are about the subject are heard nowhere else. Outside of the mask the clean latent is the background
itself (Wang et al. 2024, "PrimeComposer", arXiv 2403.05053: the correlation and preservation diffusers in one pass, and
region-constrained cross-attention). That is a denoiser without memory, hence a model with a law of its own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.extras import needing
from feynkac.base.lists import as_list
from feynkac.base.numbers import as_whole, read_limit, read_whole
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.denoisers import Network
from feynkac.tensors import read_tensor


class ComposedDenoiser:
    """What a network with attention expects, with the subject of `picture` kept inside `mask` and the rest outside.

    `network`: a model of diffusers with self-attention and cross-attention of its own, such as the `unet` of Stable
    Diffusion or PixArt's `transformer`; it is not written to. `call(network, x, time)`: its output for (R, C, H, W)
    latents, under the prompt, row by row. `picture`: (C, H, W) the clean latent with the subject pasted in; `mask`:
    (H, W) True where the network may draw. `words`: which of the prompt's tokens are about the subject. `kind` and
    `clip` are those of `Network`. Where the noise has a standard deviation above `start` the picture itself is
    expected, so that sampling begins with the noised picture; down to `until` attention is steered. `seed` draws the
    noise of the picture, which is part of the law.

    Raises ArgumentError for shapes and words that do not fit, and for networks whose attention cannot be steered.
    """

    def __init__(
        self,
        network: nn.Module,
        call: Callable[[nn.Module, Tensor, float], Tensor],
        picture: Tensor,
        mask: Tensor,
        words: Sequence[int] = (),
        *,
        kind: str = "epsilon",
        clip: float | None = None,
        start: float = math.inf,
        until: float = 0.0,
        seed: int = 0,
    ) -> None:
        picture = read_tensor("ComposedDenoiser: picture", picture).detach()
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or not mask.any():
            raise ArgumentError(
                f"ComposedDenoiser: mask is {quote(mask)}; give (H, W) of bool, True where the network may draw"
            )
        if not isinstance(network, nn.Module) or not callable(call):
            raise ArgumentError(
                f"ComposedDenoiser({quote(network)}, {quote(call)}): give a network, and a function of the network, "
                "latents and their time"
            )
        if picture.ndim != 3 or mask.shape != picture.shape[1:]:
            raise ArgumentError(
                f"ComposedDenoiser: a picture of shape {tuple(picture.shape)} and a mask of {tuple(mask.shape)}; they "
                "are (C, H, W) and (H, W) of one latent"
            )
        heard = as_list(words)
        if heard is None or any(as_whole(each) is None for each in heard):
            raise ArgumentError(f"ComposedDenoiser: words is {quote(words)}; give numbers of tokens, counted from 0")
        steered = copy_steered(network, Steering(mask, heard))
        self._plain, self._steered = (Network(partial(call, each), kind, clip) for each in (network, steered))
        self.picture, self.mask = picture, mask
        self.start, self.until = (
            read_limit(f"ComposedDenoiser: {name}", value) for name, value in (("start", start), ("until", until))
        )
        source = torch.Generator().manual_seed(read_whole("ComposedDenoiser: seed", seed, 0) % (1 << 63))
        self._noise = torch.randn(picture.shape, generator=source, device="cpu")

    def x0hat(self, x: Tensor, t: NoiseLevel, /) -> Tensor:
        """(R, C, H, W) the clean latents expected."""
        picture = self.picture.to(x)
        if t.sigma > self.start:
            return picture.expand_as(x)
        if t.sigma >= self.until:
            reference = t.alpha * picture + t.sigma * self._noise.to(x)
            drawn = self._steered.x0hat(torch.cat([reference[None], x]), t)[1:]
        else:
            drawn = self._plain.x0hat(x, t)
        return torch.where(self.mask.to(x.device), drawn, picture)


class Steering:
    """An attention processor: inside of the mask row 0 says who attends to whom, outside `words` are not heard."""

    def __init__(self, mask: Tensor, words: Sequence[int]) -> None:
        self._mask, self._words = mask.float(), list(words)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """What `attn`, an Attention of diffusers, makes of (R, L, D) or (R, D, H, W) hidden states."""
        x = hidden_states.flatten(2).transpose(1, 2) if hidden_states.ndim == 4 else hidden_states
        if attn.group_norm is not None:
            x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)
        context = x if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        query, key, value = (
            layer(each).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, each in ((attn.to_q, x), (attn.to_k, context), (attn.to_v, context))
        )
        scores = attn.scale * query @ key.mT
        if attention_mask is not None:
            given = attn.prepare_attention_mask(attention_mask, context.shape[1], len(x))
            scores = scores + given.unflatten(0, (len(x), attn.heads))
        weights = self.steer(scores, encoder_hidden_states is not None)
        out = attn.to_out[1](attn.to_out[0]((weights @ value).transpose(1, 2).flatten(2)))
        if hidden_states.ndim == 4:
            out = out.transpose(1, 2).reshape(hidden_states.shape)
        return ((out + hidden_states) if attn.residual_connection else out) / attn.rescale_output_factor

    def steer(self, scores: Tensor, crossing: bool) -> Tensor:
        """(R, heads, L, K) attention weights from scores: of latents to each other, or to words (`crossing`)."""
        inside = self._find_inside(scores.shape[2]).to(scores.device)
        if not crossing:
            weights = scores.softmax(-1)
            return torch.where(inside[:, None], weights[:1], weights)
        if self._words:
            deaf = self._find_deaf(scores.shape[3]).to(scores.device)
            scores = scores.masked_fill(~inside[:, None] & deaf, -math.inf)
        return scores.softmax(-1)

    def _find_deaf(self, tokens: int) -> Tensor:
        """(K,) the words that are heard inside only."""
        if not set(self._words) < set(range(tokens)):
            raise ArgumentError(
                f"words={self._words} of a prompt of {tokens} tokens: outside of the mask there is nothing else to "
                "hear, or they are none of them; give the numbers, from 0, of those that are about the subject"
            )
        deaf = torch.zeros(tokens, dtype=torch.bool, device="cpu")
        deaf[self._words] = True
        return deaf

    def _find_inside(self, tokens: int) -> Tensor:
        """(L,) whether a token's patch touches the mask."""
        side = math.isqrt(self._mask.numel() // tokens)
        fits = tokens * side**2 == self._mask.numel() and all(size % side == 0 for size in self._mask.shape)
        if not fits:
            raise ArgumentError(
                f"{tokens} tokens do not cover a mask of shape {tuple(self._mask.shape)} in squares; take latents "
                "whose sides the network's patches divide"
            )
        return nn.functional.max_pool2d(self._mask[None, None], side).flatten() > 0


def copy_steered(network: nn.Module, steering: Steering) -> nn.Module:
    """`network` with `steering` in its attention: a copy of its modules on the same parameters.

    Raises ArgumentError for a network without attention, or with one that is not of the usual kind.
    """
    with needing("diffusion", "attention is steered in networks of diffusers"):
        from diffusers.models.attention_processor import Attention
    memo = {id(each): each for each in (*network.parameters(), *network.buffers())}
    mine = copy.deepcopy(network, memo)
    parts: list[Any] = [part for part in mine.modules() if hasattr(part, "set_processor")]
    more = ("add_k_proj", "norm_q", "norm_k", "spatial_norm")
    usual = (isinstance(part, Attention) and all(getattr(part, name) is None for name in more) for part in parts)
    odd = [part for part, each in zip(parts, usual, strict=True) if not each]
    if not parts or odd:
        found = type(odd[0]).__name__ if odd else "none"
        raise ArgumentError(
            f"the attention of {type(network).__name__} cannot be steered ({found}): it needs the Attention of "
            "diffusers with latents and words apart, as in the unet of Stable Diffusion and in PixArt's transformer"
        )
    for part in parts:
        part.set_processor(steering)
    return mine
