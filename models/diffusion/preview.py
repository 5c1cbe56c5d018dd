"""Cheap previews: what guesses see of the clean latents expected, where the whole VAE is not worth its cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from feynkac.base.errors import ArgumentError, is_out_of_memory, quote
from feynkac.models.diffusion.decoding import Decoder, raise_precision, show_embeddings, to_samples

Preview: TypeAlias = Literal["linear", "full"] | Callable[[Tensor], Tensor] | None
PIXELS, FIELDS = 2**16, 4
"""Pixels that a fit takes at most of each field, and how many fields are decoded for it."""
GRIDS = (4, 8, 16, 32)
"""Over how many points, in each dimension, a field varies; each adds the same variance, as octaves of pictures do."""


class Fit(NamedTuple):
    """Colours as an affine function of a latent's channels."""

    weight: Tensor
    """(C + 1, K) float64, the constant last."""
    size: tuple[int, ...]
    """(H, W) of an image, (F, H, W) of a video."""


class Linear:
    """Colours that are affine in the channels of the latent, blown up to the size of the sample.

    The weights are the least squares fit to what `decoder` makes of FIELDS smooth random latents of unit variance. They
    depend on the VAE alone, so that a run depends on no other run, and are kept in `fits`, by shape.
    """

    def __init__(self, decoder: Decoder, fits: dict[tuple[int, ...], Fit]) -> None:
        self._decoder, self._fits = decoder, fits
        self._first: Tensor | None = None

    def try_decoder(self, latents: Tensor) -> None:
        """Decode one sample of the shape of `latents` (R, ...), the first of a fit; raises what the decoder does."""
        z = raise_precision(self._decoder.unpack(latents[:1]))
        if tuple(z.shape[1:]) not in self._fits:
            self._first = self._make(_draw_smooth(FIELDS, z.shape[1:])[:1], z)

    def __call__(self, latents: Tensor) -> Tensor:
        """(R, K, H, W), or (R, F, K, H, W) of videos, from 0 to 1; differentiable."""
        z = raise_precision(self._decoder.unpack(latents))
        shape = tuple(z.shape[1:])
        if shape not in self._fits:
            self._fits.setdefault(shape, self._fit(shape, z))  # the same numbers, should two threads come at once
        weight, size = self._fits[shape]
        weight = weight.to(z)
        colours = torch.einsum("rc...,ck->rk...", z, weight[:-1]) + weight[-1].reshape(1, -1, *[1] * (z.ndim - 2))
        return _swap(_blow_up(colours, size).clamp(0, 1))

    @torch.no_grad()
    def _make(self, field: Tensor, like: Tensor) -> Tensor:
        """(1, K, ...) the sample, on the host, of one field."""
        return _swap(self._decoder.decode(field.to(like))).cpu()

    @torch.no_grad()
    def _fit(self, shape: tuple[int, ...], like: Tensor) -> Fit:
        fields = _draw_smooth(FIELDS, shape)
        first = self._make(fields[:1], like) if self._first is None else self._first
        images = torch.cat([first, *(self._make(each, like) for each in fields[1:].split(1))])
        size = tuple(images.shape[2:])
        count, source = images[0, 0].numel(), torch.Generator().manual_seed(1)
        some = torch.randperm(count, generator=source)[:PIXELS]
        given, wanted = (
            each.flatten(2)[..., some].double().movedim(1, -1).flatten(0, 1)
            for each in (_blow_up(fields, size), images)
        )
        given = torch.cat([given, given.new_ones(len(given), 1)], 1)
        square = given.T @ given
        ridge = 1e-9 * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64, device=square.device)
        return Fit(torch.linalg.solve(square + ridge, given.T @ wanted), size)


def try_decoder(decode: Callable[[Tensor], Tensor], preview: Callable[[Tensor], Tensor], latents: Tensor) -> None:
    """Find out before a run whether `decode`, a pipeline's own, takes its `latents` (R, ...).

    Raises ModelError where it does not.
    """
    if isinstance(preview, Linear):
        preview.try_decoder(latents)
    elif decode is not to_samples:
        try:
            with torch.no_grad():
                decode(latents[:1])
        except Exception as cause:
            if not is_out_of_memory(cause):  # what to do about that is said where it matters
                raise


def preview_of(
    preview: Any, decode: Callable[[Tensor], Tensor], own: bool, fits: dict[tuple[int, ...], Fit]
) -> Callable[[Tensor], Tensor]:
    """What `from_pipeline(..., preview=preview)` means; `own`: whether `decode` is the pipeline's own.

    Raises ArgumentError for anything else than "linear", "full", a VAE of diffusers, a function, or None.
    """
    if preview == "full" or (preview is None and not own):
        return decode
    if preview is None or preview == "linear":
        if isinstance(decode, Decoder):
            return Linear(decode, fits)
        if own and (preview is None or decode in (to_samples, show_embeddings)):  # pixels are cheap
            return decode
        raise ArgumentError(
            "preview='linear' is fitted to a VAE whose latents are laid out as its pictures are, and these are of "
            "another kind (sounds, packed latents); leave preview= out, or give a function of latents"
            if own
            else "preview='linear' is fitted to the pipeline's own VAE, and decode= is given in its place"
        )
    if hasattr(preview, "decode") and hasattr(preview, "config"):
        if not isinstance(decode, Decoder):
            raise ArgumentError(f"preview={type(preview).__name__}, but there is no VAE that it could stand for")
        return Decoder(decode.pipe, decode.height, decode.width, preview)
    if not callable(preview):
        raise ArgumentError(
            f"preview={quote(preview)}; choose 'linear' or 'full', or give a VAE, or a function of latents"
        )
    return cast("Callable[[Tensor], Tensor]", preview)


def _draw_smooth(n: int, shape: Sequence[int]) -> Tensor:
    """(n, *shape) random fields (C, ...) of unit variance, with features of all sizes; always the same."""
    channels, *size = shape
    source = torch.Generator().manual_seed(0)
    grids = [[min(points, side) for side in size] for points in GRIDS]
    total = sum(_blow_up(torch.randn(n, channels, *grid, generator=source, device="cpu"), size) for grid in grids)
    assert isinstance(total, Tensor)
    return total / total.std()


def _blow_up(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=False)


def _swap(x: Tensor) -> Tensor:
    """(R, K, F, H, W) to (R, F, K, H, W), and back; images stay."""
    return x if x.ndim == 4 else x.transpose(1, 2)
