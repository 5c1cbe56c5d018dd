"""From the latents of a pipeline to what rewards see: tensors from 0 to 1."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, ModelError, is_out_of_memory, quote
from feynkac.base.extras import needing
from feynkac.models.diffusion.modules import copy_modules, list_call_names

PACKING = ["latents", "height", "width", "vae_scale_factor"]
"""The arguments of `_unpack_latents` where its meaning is known (Flux)."""
NO_CALL = MappingProxyType[str, Any]({})
QUANTISED = ("vqvae", "vqgan", "movq")
"""Components that decode by other rules than a VAE."""


def raise_precision(x: Tensor) -> Tensor:
    """(N, ...) in single precision at least: for rewards, and for the kernel's differences."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def to_samples(x: Tensor) -> Tensor:
    """(R, C, H, W) images from 0 to 1, of images from -1 to 1, or (R, C, T) sounds bounded to these.

    The gradient is 0 where they were outside.
    """
    return raise_precision(x.clamp(-1, 1) if x.ndim == 3 else (x / 2 + 0.5).clamp(0, 1))


def show_embeddings(x: Tensor) -> Tensor:
    """(R, ...) as they are: another pipeline makes the images of them."""
    return raise_precision(x)


@dataclass(frozen=True)
class Decoder:
    """The VAE and the image processor of `pipe`: latents (R, ...) to images (R, C, H, W), or videos (R, F, C, H, W).

    `height`, `width`: of the images, in pixels, for pipelines that pack their latents. What a pipeline does to finished
    pictures, such as a safety check or a watermark, is left out. The VAE itself is never written to (see `copy_vae`).
    """

    pipe: Any
    height: int | None = None
    width: int | None = None
    instead: Any = None
    """A VAE of the same latents, to be used instead of the pipeline's own."""

    def __call__(self, latents: Tensor) -> Tensor:
        """Differentiable, unless the pipeline's processor is not."""
        return self.decode(self.unpack(latents))

    def unpack(self, latents: Tensor) -> Tensor:
        """(R, C, ...) with a place for each pixel or patch, of latents (R, ...) as the pipeline keeps them.

        Raises ModelError as `decode` does.
        """
        return self._explain(latents, self._unpack)

    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents (R, C, ...) that are unpacked.

        Raises ModelError where the VAE cannot be used as that of Stable Diffusion or Wan, with what to give instead.
        """
        return self._explain(latents, lambda z: raise_precision(self._decode(z.to(find_device(self.pipe, self._vae)))))

    def _explain(self, latents: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """What `run` makes of `latents`. Raises ModelError for what it raises, with what to give instead."""
        try:
            return run(latents)
        except Exception as cause:
            if is_out_of_memory(cause):
                raise
            raise ModelError(
                f"latents of shape {tuple(latents.shape[1:])} cannot be decoded with the {type(self._given).__name__} "
                f"of {type(self.pipe).__name__} as those of the usual VAEs are ({type(cause).__name__}: {cause}); give "
                "from_pipeline decode=, a function of latents (R, ...) that returns images (R, C, H, W) from 0 to 1"
            ) from cause

    def _decode(self, latents: Tensor) -> Tensor:
        if latents.ndim == 5 and self._decodes_videos:
            mine = object.__new__(type(self.pipe))
            mine.__dict__.update(vars(self.pipe), vae=self._vae)
            return self._process(mine.decode_latents(latents.to(self._vae.dtype)))
        scaled = self._unscale(latents).to(self._vae.dtype)
        return self._process(self._vae.decode(scaled, return_dict=False)[0])

    @property
    def _decodes_videos(self) -> bool:
        """Whether the pipeline has a decoder of its own for videos, as those have whose VAE decodes frames."""
        method = getattr(self.pipe, "decode_latents", None)
        if method is None:
            return False
        parameters = list(inspect.signature(method).parameters.values())
        return [each.name for each in parameters if each.default is each.empty] == ["latents"]

    def _unpack(self, latents: Tensor) -> Tensor:
        if hasattr(self.pipe, "_unpack_latents"):
            scale = self.pipe.vae_scale_factor
            side = getattr(self.pipe, "default_sample_size", 0) * scale
            latents = self.pipe._unpack_latents(latents, self.height or side, self.width or side, scale)
        if latents.ndim not in (4, 5):
            raise ValueError("they have the form of neither images nor videos")
        return latents

    @property
    def _given(self) -> Any:
        return self.pipe.vae if self.instead is None else self.instead

    @functools.cached_property
    def _vae(self) -> Any:
        return copy_vae(self._given)

    def _unscale(self, latents: Tensor) -> Tensor:
        config = self._vae.config
        factor, shift = getattr(config, "scaling_factor", None) or 1.0, getattr(config, "shift_factor", None) or 0.0
        shift = 0.0 if _drops_shift(self.pipe) else shift
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if getattr(config, "scaling_factor", None) is None and (mean is None or std is None):
            raise ValueError("its config has no scaling_factor and no latents_mean, so that the scale is unknown")
        if mean is None or std is None:
            return latents / factor + shift
        by_channel = (1, -1, *[1] * (latents.ndim - 2))
        mean, std = (torch.as_tensor(each).to(latents).reshape(by_channel) for each in (mean, std))
        return latents * std / factor + mean

    def _process(self, decoded: Tensor) -> Tensor:
        if decoded.ndim == 5:
            return self.pipe.video_processor.postprocess_video(decoded, output_type="pt")
        if getattr(self.pipe, "image_processor", None) is None:
            return to_samples(decoded)
        return self.pipe.image_processor.postprocess(decoded, output_type="pt")


def _drops_shift(pipe: Any) -> bool:
    """Whether a call of `pipe` divides by its VAE's scale and leaves the shift out (Stable Diffusion 3's inpaint)."""
    names = next((each for each in list_call_names(pipe) if {"decode", "scaling_factor"} <= each), None)
    return names is not None and "shift_factor" not in names


def find_device(pipe: Any, vae: Any) -> torch.device:
    """Where `vae` works, which is not where it rests if `pipe` is offloaded."""
    offloaded = any(hasattr(module, "_hf_hook") for module in vae.modules())
    return pipe._execution_device if offloaded else vae.device


def copy_vae(vae: Any) -> Any:
    """A copy of the modules of `vae`, for one run; some write to themselves while they decode.

    It is on the same parameters and takes no memory, unless `vae` overflows in half precision (SDXL's says so): then
    its decoder is copied in single precision, which takes 200 MB for SDXL's as long as the run lasts. Hooks, and what
    was compiled, are not copied but used. A `vae` that cannot be copied is used itself, by one run at a time.
    """
    upcast = getattr(vae, "dtype", None) == torch.float16 and getattr(vae.config, "force_upcast", False)
    try:
        mine = copy_modules(vae, not upcast, vae._modules.get("encoder") if upcast else None)
    except Exception:
        return vae
    return mine.to(dtype=torch.float32) if upcast else mine


def decoder_of(pipe: Any, call: Mapping[str, Any] = NO_CALL) -> Callable[[Tensor], Tensor] | None:
    """How a `call` of `pipe` makes samples of its latents; None where that is not known."""
    from feynkac.models.diffusion.sounds import sounds_of  # which decodes by what is defined here

    sounds = sounds_of(pipe, call)
    if sounds is not None:
        return sounds
    unpack = getattr(pipe, "_unpack_latents", None)
    packs = unpack is not None and list(inspect.signature(unpack).parameters) != PACKING
    if packs or any(getattr(pipe, name, None) is not None for name in QUANTISED):
        return None
    if getattr(pipe, "vae", None) is not None:
        return Decoder(pipe, call.get("height"), call.get("width"))
    return to_samples if getattr(pipe, "prior", None) is None else show_embeddings


def on_pil(f: Callable[[Any], Any]) -> Callable[[Tensor], Any]:
    """`f`, which takes a PIL image, or a list of them, as a function of tensors from 0 to 1.

    It is given one image for (C, H, W), as in `fk.reward(on_pil(f))`, and a list for (R, C, H, W): the images of a
    batch (`batch=True`), or the frames of a video. Raises ArgumentError for what is no function.
    """
    if not callable(f):
        raise ArgumentError(f"on_pil({quote(f)}): give a function of a PIL image, or of a list of them")

    def call(images: Tensor) -> Any:
        if not isinstance(images, Tensor) or images.ndim not in (3, 4):
            found = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else quote(images)
            raise ArgumentError(f"on_pil: a sample is {found}; images are (C, H, W), or (R, C, H, W)")
        with needing("diffusion", "images are made by Pillow"):
            from PIL import Image
        batch = images.detach() if images.ndim == 4 else images.detach()[None]
        arrays = (batch.float() * 255).round().clamp(0, 255).byte().cpu().permute(0, 2, 3, 1).numpy()
        pictures = [Image.fromarray(each[..., 0] if each.shape[-1] == 1 else each) for each in arrays]
        return f(pictures if images.ndim == 4 else pictures[0])

    call.__name__ = getattr(f, "__name__", "on_pil")
    return call
