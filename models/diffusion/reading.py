"""The parts of a sampler, as a user gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from feynkac.base.capabilities import offers
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_sequence
from feynkac.base.numbers import as_whole, read_whole
from feynkac.models.diffusion.denoisers import check_denoiser
from feynkac.models.diffusion.proposals import Proposal
from feynkac.models.diffusion.schedule import NoiseSchedule
from feynkac.models.diffusion.sources import Source

if TYPE_CHECKING:
    from feynkac.models.diffusion.sampler import DiffusionSampler

_WHO = "DiffusionSampler"


def read_parts(sampler: DiffusionSampler) -> dict[str, Any]:
    """The fields of `sampler` as they are kept. Raises ArgumentError for all that is wrong."""
    if not offers(sampler.denoiser, Source):
        check_denoiser(_WHO, sampler.denoiser)
    if not isinstance(sampler.schedule, NoiseSchedule):
        raise ArgumentError(f"{_WHO}: schedule is {quote(sampler.schedule)}; give a NoiseSchedule, such as ddpm(50)")
    if not offers(sampler.proposal, Proposal):
        raise ArgumentError(f"{_WHO}: proposal is {quote(sampler.proposal)}; give one, such as Guided(reward)")
    preview = sampler.decode if sampler.preview is None else sampler.preview
    for name, f in (("decode", sampler.decode), ("preview", preview)):
        if isinstance(f, type) or not callable(f):
            raise ArgumentError(
                f"{_WHO}: {name} is {quote(f)}; give a function of latents (R, ...) to samples (R, ...)"
            )
    batch = None if sampler.batch is None else read_whole("batch", sampler.batch, 1, ", the rows of one network call")
    _check_places(sampler)
    return {"preview": preview, "batch": batch, "shape": _read_shape(sampler.shape)}


def _read_shape(shape: Any) -> tuple[int, ...]:
    sizes = [as_whole(each) for each in as_sequence(shape) or ()]
    known = tuple(size for size in sizes if size is not None and size >= 1)
    if not sizes or len(known) < len(sizes):
        raise ArgumentError(f"{_WHO}: shape is {quote(shape)}; give that of one latent, such as (4, 64, 64), or (2,)")
    return known


def _check_places(sampler: DiffusionSampler) -> None:
    if not isinstance(sampler.dtype, torch.dtype) or not sampler.dtype.is_floating_point:
        raise ArgumentError(f"{_WHO}: dtype is {quote(sampler.dtype)}; give one of real numbers, such as torch.float32")
    try:
        known = isinstance(sampler.device, str | torch.device) and torch.device(sampler.device).type != "meta"
    except RuntimeError:
        known = False
    if not known:
        raise ArgumentError(f"{_WHO}: device is {quote(sampler.device)}; give one of torch's, such as 'cpu' or 'cuda'")
