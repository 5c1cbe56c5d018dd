"""Populations of latents as trees (see `feynkac.base.capabilities.Saves`).

A pipeline in the middle of its call cannot be written: it is called again, and led through the latents that it was
given before, which takes the passes of its network up to there. What it said last is among the leaves that are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from feynkac.base.capabilities import offers
from feynkac.base.digests import digest, digest_weights
from feynkac.base.errors import ArgumentError
from feynkac.base.memory import Memory
from feynkac.models.diffusion.denoisers import Denoiser, Predictor, Recurrent
from feynkac.models.diffusion.sources import Denoisers
from feynkac.models.diffusion.state import Latents

if TYPE_CHECKING:
    from feynkac.models.diffusion.sampler import DiffusionSampler

ARRAYS = ("x", "group", "alive", "owed", "since", "denoised", "carry")
_PLAIN = (bool, int, float, str, type(None))
HOST = ("samples",)
"""Leaves that stay on the host."""


def check_source(sampler: DiffusionSampler) -> None:
    """Raises ArgumentError for a sampler whose predictions come from anything but denoisers."""
    if not isinstance(sampler.source, Denoisers):
        raise ArgumentError(
            f"checkpoint= with a sampler on {type(sampler.source).__name__}: only what denoisers say can be asked "
            "again in another process; run without checkpoint="
        )


def save_latents(state: Latents) -> dict[str, Any]:
    """A population of latents, with what is known of them at their noise level."""
    arrays = {name: getattr(state, name) for name in ARRAYS}
    return {"t": state.t, "arrays": arrays, "leaves": state.leaves, "memory": state.memory.save()}


def load_latents(sampler: DiffusionSampler, saved: dict[str, Any], prompts: tuple[str | None, ...] = ()) -> Latents:
    """What `save_latents` gave, on the sampler's device."""
    leaves = {key: value if key in HOST else _move(value, sampler) for key, value in saved["leaves"].items()}
    arrays = {name: _move(value, sampler) for name, value in saved["arrays"].items()}
    memory = Memory.load(saved["memory"])
    return Latents(**arrays, sampler=sampler, t=saved["t"], memory=memory, leaves=leaves, prompts=prompts)


def _move(value: Any, sampler: DiffusionSampler) -> Any:
    if isinstance(value, Mapping):
        return {key: _move(leaf, sampler) for key, leaf in value.items()}
    return value.to(sampler.device) if isinstance(value, Tensor) else value


def identify_sampler(sampler: DiffusionSampler) -> dict[str, Any]:
    """What tells a sampler from others."""
    denoisers = sampler.source.denoisers if isinstance(sampler.source, Denoisers) else (sampler.source,)
    return {
        "schedule": digest(sampler.schedule),
        "steps": len(sampler.schedule),
        "shape": list(sampler.shape),
        "proposal": _tell(sampler.proposal),
        "dtype": str(sampler.dtype),
        "denoiser": [identify_parts(each) for each in denoisers],
    }


def identify_parts(thing: Any) -> dict[str, Any]:
    """The kind of an object, and of its networks, tensors and numbers what tells them from others.

    Denoisers that it is made of, and what else of ours it holds, are told in the same way.
    """
    kind = {"kind": type(thing).__name__}
    if isinstance(thing, nn.Module):
        return {**kind, "weights": digest_weights(thing.named_parameters())}
    told = ((name, _tell_part(value)) for name, value in getattr(thing, "__dict__", {}).items() if name.isidentifier())
    return {**kind, **{name: each for name, each in told if each is not None}}


def _tell_part(value: Any) -> Any:
    """What tells a part of an object from others; None where nothing does."""
    if isinstance(value, int | float | str):
        return value
    if isinstance(value, Tensor):
        return digest(value.tolist())
    if isinstance(value, nn.Module):
        return digest_weights(value.named_parameters())
    if isinstance(value, list | tuple):
        return [_tell_part(each) for each in value]
    return identify_parts(value) if _is_ours(value) or offers(value, Denoiser, Predictor, Recurrent) else None


def identify_pipeline(pipe: Any, calls: Sequence[Mapping[str, Any]], **settings: Any) -> dict[str, Any]:
    """What tells a pipeline and its calls from others."""
    networks = {
        name: digest_weights(part.named_parameters())
        for name, part in vars(pipe).items()
        if isinstance(part, nn.Module)
    }
    told = [{name: _tell(value) for name, value in call.items()} for call in calls]
    return {
        "pipeline": type(pipe).__name__,
        "networks": networks,
        "scheduler": {
            "kind": type(pipe.scheduler).__name__,
            "config": digest(sorted(map(str, pipe.scheduler.config.items()))),
        },
        "calls": told,
        **{name: _tell(value) for name, value in settings.items()},
    }


def _tell(value: Any) -> Any:
    """What tells an argument from others; of an object that is not of ours, and may change as it likes, its kind."""
    if isinstance(value, Tensor):
        return digest(value.tolist())
    if _is_ours(value):
        return identify_parts(value)
    return value if isinstance(value, _PLAIN) else type(value).__name__


def _is_ours(value: Any) -> bool:
    return type(value).__module__.startswith("feynkac.models.diffusion.")


def save_generators(generators: Any) -> list[Tensor]:
    """The states of generators."""
    return [each.get_state() for each in generators]


def load_generators(generators: Any, saved: list[Tensor]) -> None:
    """Put generators into states that were saved."""
    for each, state in zip(generators, saved, strict=True):
        each.set_state(state.to(torch.uint8))
