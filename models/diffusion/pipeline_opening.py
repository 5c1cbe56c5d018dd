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
from feynkac.models.diffusion.pipeline_parts import Room
from feynkac.models.diffusion.pipeline_rows import Silence
from feynkac.models.diffusion.pipeline_singly import Call, SingleCalls
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
    pipe: Any,
    calls: Sequence[Mapping[str, Any]],
    n: int,
    options: Mapping[str, Any],
    repeat: bool = False,
) -> dict[str, Any] | None:
    """The arguments of one call for `n` samples; None where the pipeline has no count and nothing can be repeated.

    Raises ArgumentError for an `n` that the problems cannot share, and for problems that cannot be one call.
    """
    if n % len(calls):
        raise ArgumentError(f"{n} particles for {len(calls)} prompts; give each the same number")
    repeat = repeat or not counts(pipe, calls)
    arguments = repeat_inputs(calls, n) if repeat else count_samples(pipe, calls, n)
    return None if arguments is None else arguments | dict(options)


def open_call(
    pipe: Any,
    calls: Sequence[Mapping[str, Any]],
    sources: Sequence[torch.Generator],
    options: Mapping[str, Any],
    batch: int | None = None,
    silent: dict[int, Silence] | None = None,
) -> tuple[Call, Question]:
    """A call for all particles at its first question, each with its own generator, `batch` at a time in its networks.

    `silent`: the forms of networks that need not run (see `Room`), of a call that is asked for finished samples.

    Some pipelines have a count of samples that they do not heed: then their inputs are repeated instead. Those that
    make one sample in a call, whatever they are given, are called for each particle. Raises ModelError for what the
    pipeline raises, and where it makes another number of latents.
    """
    n, asked = len(sources), ask_for(pipe)
    if asked is not None:
        options = {**options, "output_type": asked if silent is None else "pt"}

    def make_room(rows: int) -> Room:
        return Room(rows, batch, known={} if silent is None else silent, silent=silent is not None)

    for repeat in (False, True):
        for source in sources:
            source.manual_seed(source.initial_seed())
        arguments = make_arguments(pipe, calls, n, {**options, "generator": list(sources)}, repeat)
        found = None if arguments is None else _try_call(pipe, arguments, make_room(n))[0]
        if found is not None:
            return found
    return _open_singly(pipe, calls, sources, options, make_room(1))


def _open_singly(
    pipe: Any,
    calls: Sequence[Mapping[str, Any]],
    sources: Sequence[torch.Generator],
    options: Mapping[str, Any],
    room: Room,
) -> tuple[SingleCalls, Question]:
    """A call for each particle, as `calls` were given; what the first one raises is what there is to say."""
    each, opened = len(sources) // len(calls), list[PipelineCall]()
    for row, source in enumerate(sources):
        source.manual_seed(source.initial_seed())
        given = {**calls[row // each], **options, "generator": source}
        found, question, error = _try_call(pipe, given, room)
        if error is not None or question is None:
            raise _explain_failure(pipe, calls, options, error)
        if found is None:
            raise ModelError(
                f"{type(pipe).__name__} hands {len(question.x)} latents to its scheduler for one sample; give it one "
                "prompt, one picture and one video, and if it is given no more, it cannot be steered"
            )
        opened.append(found[0])
    call = SingleCalls(opened)
    assert call.question is not None
    return call, call.question


def _explain_failure(
    pipe: Any, calls: Sequence[Mapping[str, Any]], options: Mapping[str, Any], error: ModelError | None
) -> FeynkacError:
    """Why a call for one sample has raised `error`, or asks nothing of its scheduler where there is none."""
    name, steps, strength = type(pipe).__name__, options["num_inference_steps"], as_real(calls[0].get("strength"))
    if strength is not None and strength >= 0.0 and int(steps * strength) < 1:
        why: FeynkacError = ArgumentError(
            f"strength={strength:g} leaves none of the {steps} steps, so that nothing would be drawn; give a strength "
            f"of at least 1/{steps}, or more steps"
        )
    elif error is None:
        return ModelError(f"{name} never calls the step of its scheduler")
    elif "output type" in str(error):
        why = ModelError(
            f"{name} cannot be steered: it returns neither its latents nor tensors of its samples ({error.__cause__})"
        )
    else:
        return error
    why.__cause__ = None if error is None else error.__cause__
    return why


def _try_call(
    pipe: Any, arguments: Mapping[str, Any], room: Room
) -> tuple[tuple[PipelineCall, Question] | None, Question | None, ModelError | None]:
    """A call at its first question, if that is about as many latents; the question; and what the pipeline raised."""
    call, question = PipelineCall(pipe, arguments, room), None
    try:
        question = call.start()
    except ModelError as error:
        given = isinstance(call.failure, ValueError | TypeError | RuntimeError | LookupError)
        if not given or is_out_of_memory(call.failure):
            raise
        return None, None, error
    return ((call, question) if question is not None and len(question.x) == room.particles else None), question, None
