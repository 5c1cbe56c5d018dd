"""The arguments of a pipeline's call for all particles: its count of samples, or else its inputs repeated."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from feynkac.base.arguments import advise_name
from feynkac.base.errors import ArgumentError, ModelError, UnknownArgument, quote
from feynkac.base.numbers import as_real

COUNTS = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt", "batch_size")
OURS = (*COUNTS, "num_inference_steps", "generator", "latents", "output_type", "return_dict", "eta")
"""Arguments of a pipeline's call that belong to the run."""
ALONE = "give it to all alike, or steer them one after the other"


def list_parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a call of `pipe`, by name."""
    return inspect.signature(type(pipe).__call__).parameters


def list_names(pipe: Any) -> list[str] | None:
    """The arguments that a call of `pipe` has a name for; None where it names none, but takes any.

    A call with **kwargs may pass them on to that of the class above, whose names are then its own.
    """
    found = dict[str, None]()
    for call in (vars(each)["__call__"] for each in type(pipe).__mro__ if "__call__" in vars(each)):
        parameters = list(inspect.signature(call).parameters.values())[1:]
        found |= {each.name: None for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)}
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            return list(found)
    return list(found) or None


def check_call(pipe: Any, call: Mapping[str, Any]) -> None:
    """Raises ArgumentError for arguments that belong to the run, or are several prompts, UnknownArgument for others.

    Many pipelines take any name, in **kwargs, and drop what they do not know: a misspelt one would do nothing.
    """
    known = list_names(pipe)
    for name in call:
        if name in OURS:
            raise ArgumentError(f"{name} belongs to the run; see steps and eta of from_pipeline, and steer(...)")
        if known is not None and name not in known:
            raise UnknownArgument(f"{type(pipe).__name__} has no argument {quote(name)}; {_advise_name(name, known)}")
    if isinstance(call.get("prompt"), list | tuple):
        raise ArgumentError("one prompt at a time; for several, steer a list of models, one for each")
    end = as_real(call.get("denoising_end"))
    if end is not None and end < 1.0:
        raise ArgumentError(
            f"denoising_end={end:g} ends before there is a sample that a reward could see; leave it out"
        )
    embeds = call.get("prompt_embeds")
    if isinstance(embeds, Tensor) and embeds.ndim > 2 and len(embeds) > 1:
        raise ArgumentError(
            f"prompt_embeds of shape {tuple(embeds.shape)} are those of {len(embeds)} prompts; give those of one, "
            "(1, ...), and for several prompts steer a list of models, one for each"
        )


def _advise_name(name: str, known: Sequence[str]) -> str:
    return advise_name(name, [each for each in known if each not in OURS])


def check_kind(pipe: Any) -> None:
    """Raises ModelError for pipelines that make one sample of all that they draw."""
    if "ensemble_size" in list_parameters(pipe):
        raise ModelError(
            f"{type(pipe).__name__} cannot be steered: the samples that it draws in one call are members of an "
            "ensemble, which it aligns and averages into one; steer a pipeline that returns each sample"
        )


def counts(pipe: Any, calls: Sequence[Mapping[str, Any]]) -> bool:
    """Whether `pipe` has an argument for the number of samples of each of `calls`."""
    many = _find_count(pipe)
    return many is not None and (many != "batch_size" or all(call.keys() == calls[0].keys() for call in calls))


def _find_count(pipe: Any) -> str | None:
    return next((each for each in COUNTS if each in list_parameters(pipe)), None)


def count_samples(pipe: Any, calls: Sequence[Mapping[str, Any]], n: int) -> dict[str, Any]:
    """The arguments of one call for `n` samples, an equal number of each of `calls`, by the pipeline's own count.

    Raises ArgumentError where `calls` cannot be one.
    """
    many = _find_count(pipe)
    assert many is not None
    if many == "batch_size":  # then labels are those of the whole batch
        return _merge([_repeat_labels(call, n // len(calls)) for call in calls], joined=True) | {many: n}
    return _merge(calls) | {many: n // len(calls)}


def _repeat_labels(call: Mapping[str, Any], times: int) -> dict[str, Any]:
    return {name: _repeat(name, value, times) if "label" in name else value for name, value in call.items()}


def repeat_inputs(calls: Sequence[Mapping[str, Any]], n: int) -> dict[str, Any] | None:
    """The same for a pipeline that has no count, or does not heed it: prompts, labels, images and videos are repeated.

    None where there is none of these.
    """
    each = n // len(calls)
    repeated = [{name: _repeat(name, value, each) for name, value in call.items()} for call in calls]
    if all(more[name] is value for call, more in zip(calls, repeated, strict=True) for name, value in call.items()):
        return None
    return _merge(repeated, joined=True)


def _repeat(name: str, value: Any, times: int) -> Any:
    """`value` for so many samples, if it is an input of one sample; else `value` itself."""
    if isinstance(value, str):
        return [value] * times
    if isinstance(value, Tensor) and ("embeds" in name or "prompt" in name) and value.ndim > 1:
        return value.repeat_interleave(times, 0)
    if "label" in name:
        return None if value is None else [value] * times if isinstance(value, int) else list(value) * times
    if name.endswith("video"):
        if isinstance(value, Tensor):
            return (value[None] if value.ndim == 4 else value).repeat_interleave(times, 0)
        videos = value if isinstance(value, list | tuple) and isinstance(value[0], list | tuple) else [value]
        return list(videos) * times
    if name.endswith("image"):
        if isinstance(value, Tensor):
            return (value[None] if value.ndim == 3 else value).repeat_interleave(times, 0)
        return (list(value) if isinstance(value, list | tuple) else [value]) * times
    return value


def _merge(calls: Sequence[Mapping[str, Any]], joined: bool = False) -> dict[str, Any]:
    """The arguments of one call for all problems: prompts become lists, all else must be the same.

    `joined`: whether lists are inputs, one for each sample, that are put one after the other.
    """
    if len(calls) == 1:
        return dict(calls[0])
    some = sorted({name for call in calls for name in call.keys() ^ calls[0].keys()})
    if some:
        raise ArgumentError(
            f"prompts that run in one batch need the same arguments, and not all have {', '.join(some)}; {ALONE}"
        )
    return {name: _merge_values(name, [call[name] for call in calls], joined) for name in calls[0]}


def _merge_values(name: str, values: list[Any], joined: bool) -> Any:
    if all(isinstance(value, str) for value in values):
        return values
    if joined and all(isinstance(value, list) for value in values):
        return [item for value in values for item in value]
    if all(isinstance(value, Tensor) for value in values) and ("embeds" in name or joined):
        return torch.cat(values)
    if all(value is values[0] or value == values[0] for value in values):
        return values[0]
    raise ArgumentError(f"prompts that run in one batch need the same {name}; {ALONE}")
