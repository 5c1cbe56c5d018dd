"""A scheduler's own steps, tried before a run with latents of a few numbers: whether they are what its kernel says."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
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
Tried: TypeAlias = dict[Hashable, bool]
"""What trials have found, by the scheduler as it was set."""
PLACE = ("_step_index", "_begin_index", "is_scale_input_called")
"""Attributes of a scheduler that a trial sets itself."""


def draws_from(
    scheduler: Any, schedule: NoiseSchedule, options: Mapping[str, Any], predict: Predict, tried: Tried
) -> bool:
    """Whether the own `step` of `scheduler`, with `options`, is finite wherever the kernel of `schedule` is.

    Its arithmetic may take the root of a rounding error below 0, as with zero terminal SNR. `predict` is
    `schedulers.prediction_of`. One that is set as another that was `tried` is not tried again. Raises ModelError for
    what a step raises, and where it makes other latents than the kernel does of the same noise.
    """
    key = identify_setting(scheduler), schedule, tuple(options.items())
    if key not in tried:
        tried[key] = _try_steps(scheduler, schedule, options, predict)
    return tried[key]


def identify_setting(scheduler: Any) -> Hashable:
    """What tells how `scheduler` is set: its class, and all that it holds but its place among its steps."""
    digest = hashlib.sha256()
    for name, value in sorted(vars(scheduler).items()):
        if name not in PLACE:
            digest.update(name.encode())
            for part in _list_bytes(value):
                digest.update(part)
    told = getattr(scheduler, "_begin_index", None) is not None
    kind = type(scheduler)
    while "__wrapped__" in vars(
        kind
    ):  # a copy for a run; `inspect.unwrap` leaves classes as they are from Python 3.14 on
        kind = vars(kind)["__wrapped__"]
    return kind, inspect.unwrap(type(scheduler).step), told, digest.digest()


def _list_bytes(value: Any) -> Iterator[bytes]:
    """`value` as bytes, none of which is left out as in a repr of long arrays."""
    if isinstance(value, Tensor | np.ndarray):
        array = value.numpy(force=True) if isinstance(value, Tensor) else value
        yield f"{array.dtype}{array.shape}".encode()
        yield array.tobytes()
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield repr(key).encode()
            yield from _list_bytes(part)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield f"{type(value).__name__}{len(value)}".encode()
        for part in value:
            yield from _list_bytes(part)
    else:
        yield repr(value).encode()


@torch.no_grad()
def _try_steps(scheduler: Any, schedule: NoiseSchedule, options: Mapping[str, Any], predict: Predict) -> bool:
    """See `draws_from`."""
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
