"""A scheduler's own steps, tried before a run with latents of a few numbers: whether they are what its kernel says."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from feynkac.base.errors import ModelError
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.denoisers import Prediction
from feynkac.models.diffusion.schedule import NoiseSchedule

SHAPE = (1, 4, 2, 2)
TOLERANCE = 1e-3
"""Of the largest term of a step: what is more is no rounding of single precision, in which schedulers compute."""

Predict = Callable[[Any, Tensor, Tensor, NoiseLevel], Prediction]


@torch.no_grad()
def draws_from(scheduler: Any, schedule: NoiseSchedule, options: Mapping[str, Any], predict: Predict) -> bool:
    """Whether the own `step` of `scheduler`, with `options`, is finite wherever the kernel of `schedule` is.

    Its arithmetic may take the root of a rounding error below 0, as with zero terminal SNR. `predict` is
    `schedulers.prediction_of`. Raises ModelError for what a step raises, and where it makes other latents than the
    kernel does of the same noise.
    """
    trial, step = copy.deepcopy(scheduler), inspect.unwrap(type(scheduler).step)
    if hasattr(trial, "_step_index"):  # at the first step it looks for its place, unless the pipeline has said it
        trial._step_index, trial._begin_index = None, None if trial._begin_index is None else 0
    drawn = torch.Generator().manual_seed(0)
    for k, (transition, t) in enumerate(zip(schedule.transitions, scheduler.timesteps, strict=True)):
        x, output = (torch.randn(SHAPE, generator=drawn, device="cpu").to(t.device) for _ in range(2))
        x = x * max(transition.before.sigma, 1.0)
        if hasattr(trial, "is_scale_input_called"):  # else it warns
            trial.is_scale_input_called = True
        try:
            again = torch.Generator().manual_seed(k)
            theirs = step(trial, output, t, x, generator=again, return_dict=False, **options)[0]
        except Exception as cause:
            raise ModelError(
                f"{type(scheduler).__name__} cannot take step {k} of {len(schedule)}, at time {float(t):g}: "
                f"{type(cause).__name__}: {cause}"
            ) from cause
        said = predict(scheduler, output, x, transition.before)
        noise = transition.std * torch.randn(SHAPE, generator=torch.Generator().manual_seed(k), device="cpu").to(x)
        ours = transition.mean(said.x0hat, said.epshat) + noise
        if not bool(theirs.isfinite().all()):
            return False
        terms = (x, transition.after.alpha * said.x0hat, transition.c * said.epshat)
        size = max(1.0, *(float(term.abs().max()) for term in terms))
        if float((ours - theirs).abs().max()) > TOLERANCE * size:
            raise _refuse(scheduler, k)
    return True


def _refuse(scheduler: Any, k: int) -> ModelError:
    times = scheduler.timesteps.tolist()
    why = (
        f"its first two timesteps are both {times[0]:g}, of which its own step begins with the second; take fewer steps"
        if times[:1] == times[1:2]
        else f"its step {k} of {len(times)} makes other latents than the kernel of its class, by which it would be "
        "weighed; take the class itself, with another config"
    )
    return ModelError(
        f"{type(scheduler).__name__} cannot be steered as it is set: {why}, or algorithm='best_of_n' or 'importance', "
        "which weigh no steps"
    )
