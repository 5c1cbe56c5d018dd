"""A call's own copy of a pipeline, whose scheduler hands over what the network predicts at each step.

The networks are the same; attributes, config and schedulers, and the pipelines that it calls, are its own.
"""

from __future__ import annotations

import copy
import functools
import inspect
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

from greenlet import getcurrent
from torch import Tensor

from feynkac.base.errors import quote
from feynkac.models.diffusion.forkable import is_guider, is_pipeline, is_scheduler, is_tokenizer

USUAL = ("self", "model_output", "timestep", "sample", "eta", "generator", "return_dict")
"""Arguments of `step` that are handled; any other must be left at its default."""


class Question(NamedTuple):
    """What the pipeline gave to its scheduler: what becomes of the latents `x` (N, ...)?"""

    output: Tensor
    """(N, ...) what the network, guidance included, predicts."""
    time: Any
    """The timestep, in the units of the scheduler."""
    x: Tensor
    unusual: str = ""
    """What of its arguments would make another step than the usual one."""


class Stepped(NamedTuple):
    """The answer, by the names and in the order of every scheduler's output."""

    prev_sample: Tensor
    pred_original_sample: Tensor
    denoised: Tensor


def copy_pipeline(pipe: Any) -> Any:
    """A shallow copy of `pipe` for one call: its components are the same objects, but what is set on it stays there.

    Lists, dicts, sets, guiders and tokenizers that it holds are copied too, since a call may change them in place, and
    so are other schedulers, and pipelines that it calls; its scheduler is a copy that asks the parent greenlet, and its
    progress bar is off.
    """
    return _copy_pipeline(pipe, {id(pipe.scheduler): copy_scheduler(pipe.scheduler)})


def _copy_pipeline(pipe: Any, schedulers: dict[int, Any]) -> Any:
    """See `copy_pipeline`. `schedulers`: those that are copied already, by the id of the original."""
    mine = object.__new__(type(pipe))
    for name, value in pipe.__dict__.items():  # past __setattr__, which keeps a record of components in the config
        mine.__dict__[name] = _copy_held(value, schedulers)
    mine.__dict__["_progress_bar_config"] = {"disable": True}
    return mine


def _copy_held(value: Any, schedulers: dict[int, Any]) -> Any:
    """What a call's own pipeline holds in the place of `value`: a copy of what a call may change."""
    if id(value) in schedulers:
        return schedulers[id(value)]
    if is_scheduler(value):
        return schedulers.setdefault(id(value), copy.deepcopy(value))
    if is_pipeline(value):
        return _copy_pipeline(value, schedulers)
    if is_guider(value):
        return copy.deepcopy(value)
    if is_tokenizer(value):  # past __getattr__, which some have for their special tokens
        mine = object.__new__(type(value))
        mine.__dict__.update(vars(value))
        return mine
    return copy.copy(value) if type(value) in (list, dict, set) else value


def copy_scheduler(scheduler: Any) -> Any:
    """A copy of `scheduler` whose `step` asks the parent greenlet; its signature stays, since pipelines look at it."""
    base: Any = type(scheduler)
    signature = inspect.signature(base.step)

    # It must hold no reference to the PipelineCall: nothing could collect a cycle that goes through a suspended frame.
    @functools.wraps(base.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs).arguments
        parent = getcurrent().parent
        assert parent is not None
        asked: Any = [given.get(name) for name in ("model_output", "timestep", "sample")]
        answer = parent.switch(Question(asked[0], asked[1], asked[2], _find_unusual(base.__name__, signature, given)))
        if answer is None:
            made = base.step(self, *args, **kwargs)
            self.__dict__["_drawn"] = made[0] if isinstance(made, tuple) else made.prev_sample
            return made
        x, x0 = answer
        return Stepped(x, x0, x0) if given.get("return_dict", True) else (x, x0)

    mine = copy.deepcopy(scheduler)
    mine.__class__ = type(base.__name__, (base,), {"step": step, "__module__": base.__module__, "__wrapped__": base})
    return mine


def watch_size(pipe: Any) -> dict[str, int]:
    """The height and width, by name, that `pipe`, a call's own copy, draws its latents for, once it has.

    They are what it was asked for only in part: some pipelines go by a given image, or by sizes of their training.
    """
    draw, found = getattr(type(pipe), "prepare_latents", None), dict[str, int]()
    if draw is None:
        return found
    signature, here = inspect.signature(draw), weakref.ref(pipe)

    @functools.wraps(draw)
    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(here(), *args, **kwargs).arguments
        found.update({name: given[name] for name in ("height", "width") if given.get(name) is not None})
        return draw(here(), *args, **kwargs)

    pipe.__dict__["prepare_latents"] = prepare_latents
    return found


def _find_unusual(name: str, signature: inspect.Signature, given: Mapping[str, Any]) -> str:
    """What of the arguments `given` to a `step` would make another step than the usual one; empty if nothing."""
    for key, value in given.items():
        default = signature.parameters[key].default
        if key not in USUAL and value is not default and (default or (value is not None and value is not False)):
            return f"the pipeline calls {name}.step with {key}={quote(value)}; only its default can be steered"
    return ""
