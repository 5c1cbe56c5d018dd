"""What a pipeline returns in the end, and whole runs of it in which no particle is ever copied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feynkac.base.errors import ModelError
from feynkac.base.memory import Memory
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.decoding import to_samples
from feynkac.models.diffusion.kernel import Transition
from feynkac.models.diffusion.sampler import DiffusionSampler
from feynkac.models.diffusion.schedule import NoiseSchedule
from feynkac.models.diffusion.state import Latents

WHOLE = NoiseSchedule((Transition(NoiseLevel(0.0, 1.0), NoiseLevel(1.0, 0.0), 0.0, 0.0),), 1.0)
"""From noise to sample in one step, which is the pipeline's own."""


class Drawn:
    """The network of samples that a pipeline has drawn whole: nothing is left to ask of it."""

    def x0hat(self, x: Tensor, t: NoiseLevel, /) -> Tensor:
        """Refused."""
        raise ModelError("these samples were drawn whole; there is nothing to foresee")


def hold(sampler: DiffusionSampler, x: Tensor, problems: int) -> Latents:
    """Particles at the end of `sampler`, of samples whose latents `x` (N, ...) were drawn whole."""
    n = len(x)
    return Latents(
        sampler=sampler,
        t=len(sampler.schedule),
        x=x.detach(),
        group=np.repeat(np.arange(problems), n // problems),
        alive=np.ones(n, dtype=np.bool_),
        owed=np.zeros(n),
        since=np.zeros(n),
        memory=Memory(n),
    )


def read_latents(returned: Any, x: Tensor, asked: str | None) -> Tensor:
    """(N, ...) the latents that a pipeline has `returned` after its last step, which led to `x` (N, ...).

    Some pipelines change them once more, as those that put a given first frame back. `asked`: what was asked for:
    "latent", or "pt", which are pixels, from 0 to 1 or as the network has them, or None of a pipeline that is not
    asked. Where it returned neither, it is `x`. Embeddings are what they are.
    """
    name, value = read_first(returned)
    if asked != "latent" and isinstance(value, np.ndarray) and value.ndim in (3, 4):
        value = torch.from_numpy(np.ascontiguousarray(value.transpose(0, 3, 1, 2) if value.ndim == 4 else value))
    if not isinstance(value, Tensor) or value.ndim != x.ndim or len(value) != len(x) or not value.is_floating_point():
        return x
    value = value.detach().to(x)
    if asked == "latent":
        return value
    near = _tolerance(value)
    if value.shape != x.shape or any(torch.allclose(value, each, atol=near) for each in (to_samples(x).to(x), x)):
        return x
    plain = asked is None or value.ndim == 3 or "embed" in name or not -near <= value.min() <= value.max() <= 1.0 + near
    return value if plain else 2.0 * value - 1.0


def keep_latents(returned: Any, x: Tensor) -> Tensor:
    """(N, ...) the latents `x` that led to what was `returned`."""
    return x


def read_first(returned: Any) -> tuple[str, Any]:
    """The first thing that a pipeline has `returned`, which are its samples, and their name, if they have one."""
    if isinstance(returned, Mapping):  # as the outputs of diffusers are
        return next(iter(returned.items()), ("", None))
    return "", returned[0] if isinstance(returned, tuple) and returned else returned


def _tolerance(x: Tensor) -> float:
    return torch.finfo(x.dtype).eps ** 0.5
