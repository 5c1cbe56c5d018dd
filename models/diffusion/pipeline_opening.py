"""How a run of a pipeline begins: a rehearsal of its scheduler, and a call for all particles at its first question."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from feynkac.base.contract import Rng
from feynkac.base.errors import ArgumentError, FeynkacError, ModelError, is_out_of_memory
from feynkac.base.numbers import as_real
from feynkac.models.diffusion.pipeline_arguments import count_samples, counts, list_parameters, repeat_inputs
from feynkac.models.diffusion.pipeline_call import PipelineCall
from feynkac.models.diffusion.pipeline_copy import Question
from feynkac.models.diffusion.scheduler_trial import Tried
from feynkac.models.diffusion.schedulers import check_times, own_options, schedule_of, set_timesteps


def seed_generators(n: int, rng: Rng) -> list[torch.Generator]:
    """One source of noise for each of `n` slots, keyed by slot; a plain call of the pipeline may be given the same."""
    seeds = (rng.uniform(n) * 2.0**53).astype(np.int64)
    return [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]


def rehearse(pipe: Any, steps: int, eta: float | None, tried: Tried | None = None) -> FeynkacError | None:
    """Why particles of `pipe` cannot be copied, as far as its scheduler goes; None if they can.

    What its scheduler is found to be is put into `tried`. Raises ArgumentError for a number of steps and an eta that
    the scheduler has not.
    """
    trial = copy.deepcopy(pipe.scheduler)
    try:
        set_timesteps(trial, steps)
    except Exception as cause:
        name = type(trial).__name__
        raise ArgumentError(
            f"{name} cannot be set to {steps} steps: {cause}; give from_pipeline other steps="
        ) from cause
    check_times(trial)
    try:
        schedule_of(trial, eta)
        if hasattr(trial, "set_begin_index"):  # many a pipeline does so; whether this one does is seen when it begins
            trial.set_begin_index(0)
        own_options(trial, eta, tried)
    except FeynkacError as refusal:
        if eta is not None and not (eta == 0.0 and _runs_without_noise(pipe, trial)):
            raise
        return refusal
    return None


def _runs_without_noise(pipe: Any, scheduler: Any) -> bool:
    """Whether the pipeline's own call, as it stands, is that of eta=0."""
    own = inspect.signature(type(scheduler).step).parameters.get("eta")
    if own is not None:
        return list_parameters(pipe).get("eta", own).default == 0.0
    try:
        return own_options(scheduler, 0.0) is None and not getattr(scheduler.config, "stochastic_sampling", True)
    except FeynkacError:
        return False


def ask_for(pipe: Any) -> str | None:
    """What a pipeline is asked to return, the least work at its end; None where it is not asked."""
    if "output_type" not in list_parameters(pipe):
        return None
    return "pt" if getattr(pipe, "vae", None) is None else "latent"


def make_arguments(
    pipe: Any, calls: Sequence[Mapping[str, Any]], n: int, options: Mapping[str, Any], repeat: bool = False
) -> dict[str, Any]:
    """The arguments of one call for `n` samples. Raises ArgumentError for an `n` that the problems cannot share."""
    if n % len(calls):
        raise ArgumentError(f"{n} particles for {len(calls)} prompts; give each the same number")
    repeat = repeat or not counts(pipe, calls)
    arguments = (repeat_inputs if repeat else count_samples)(pipe, calls, n)
    asked = ask_for(pipe)
    return arguments | dict(options) | ({} if asked is None else {"output_type": asked})


def open_call(
    pipe: Any,
    calls: Sequence[Mapping[str, Any]],
    sources: Sequence[torch.Generator],
    options: Mapping[str, Any],
    batch: int | None = None,
) -> tuple[PipelineCall, Question]:
    """A call for all particles at its first question, each with its own generator, `batch` at a time in its networks.

    Some pipelines have a count of samples that they do not heed: then their inputs are repeated instead. Raises
    ModelError for what the pipeline raises, and where it makes another number of latents.
    """
    n, options = len(sources), {**options, "generator": list(sources)}
    found, question, error = _try_call(pipe, make_arguments(pipe, calls, n, options), n, batch)
    if found is not None:
        return found
    for source in sources:
        source.manual_seed(source.initial_seed())
    try:
        repeated = make_arguments(pipe, calls, n, options, repeat=True)
    except ModelError:
        repeated = None
    if repeated is not None:
        found, _, other = _try_call(pipe, repeated, n, batch)
        if found is not None:
            return found
        error = other if error is not None and "generators" in str(error) else error
    if error is not None:
        _check_strength(calls, options["num_inference_steps"], error)
        raise error
    if question is None:
        raise ModelError(f"{type(pipe).__name__} never calls the step of its scheduler")
    raise ModelError(f"the pipeline made {len(question.x)} latents for {n} particles; give it one prompt")


def _check_strength(calls: Sequence[Mapping[str, Any]], steps: int, error: ModelError) -> None:
    """Raises ArgumentError where a picture is to be changed by so little that no step is left."""
    strength = as_real(calls[0].get("strength"))
    if strength is not None and strength >= 0.0 and int(steps * strength) < 1:
        raise ArgumentError(
            f"strength={strength:g} leaves none of the {steps} steps, so that nothing would be drawn; give a strength "
            f"of at least 1/{steps}, or more steps"
        ) from error.__cause__


def _try_call(
    pipe: Any, arguments: Mapping[str, Any], n: int, batch: int | None
) -> tuple[tuple[PipelineCall, Question] | None, Question | None, ModelError | None]:
    """A call at its first question, if that is about `n` latents; the question; and what the pipeline raised."""
    call, question = PipelineCall(pipe, arguments, n, batch), None
    try:
        question = call.start()
    except ModelError as error:
        if not isinstance(error.__cause__, ValueError | TypeError | RuntimeError | LookupError) or is_out_of_memory(
            error.__cause__
        ):
            raise
        return None, None, error
    return ((call, question) if question is not None and len(question.x) == n else None), question, None
