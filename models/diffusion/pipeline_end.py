"""The end of a pipeline's own call as a decoder, for latents that are decoded in a way of which nothing is known."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from feynkac.base.errors import ModelError
from feynkac.models.diffusion.decoding import NO_CALL, Decoder, copy_vae, decoder_of, raise_precision
from feynkac.models.diffusion.pipeline_copy import Question
from feynkac.models.diffusion.pipeline_opening import ask_for, open_call
from feynkac.models.diffusion.pipeline_rows import Silence
from feynkac.models.diffusion.pipeline_singly import Call
from feynkac.models.diffusion.pipeline_whole import keep_latents, read_first, read_latents
from feynkac.models.diffusion.preview import Fit, Preview, preview_of, try_decoder
from feynkac.models.diffusion.sounds import Sounds

Decode: TypeAlias = Callable[[Tensor], Tensor]
CALLBACKS = ("callback", "callback_steps", "callback_on_step_end", "callback_on_step_end_tensor_inputs")
CHECKS = ("safety_checker", "watermark")
"""Components that change finished pictures, and are left out."""


class OwnEnd:
    """Latents (R, ...), as `pipe` keeps them after its last step, to what a call of it returns of them.

    The pipeline is called anew each time, as in `calls`, for its text encoders and its decoder alone: its networks are
    not run again, once the form of what they return is `known`, since at each step the scheduler hands over the latents
    themselves. `seed`: of what the call draws of given pictures. Raises ModelError where the pipeline returns no
    tensors, and for latents whose gradient is wanted.
    """

    def __init__(
        self,
        pipe: Any,
        calls: Sequence[Mapping[str, Any]] = ({},),
        options: Mapping[str, Any] = NO_CALL,
        known: dict[int, Silence] | None = None,
        seed: int = 0,
    ) -> None:
        self.pipe, self.calls = pipe, calls
        self._call = {name: value for name, value in calls[0].items() if name not in CALLBACKS}
        self._alike = all(_differ_in_texts(calls[0], other) for other in calls)
        self._options, self._known, self._seed = options, {} if known is None else known, seed

    def __call__(self, latents: Tensor) -> Tensor:
        """(R, ...) images and videos from 0 to 1, and sounds."""
        name = type(self.pipe).__name__
        if latents.requires_grad and torch.is_grad_enabled():
            raise ModelError(f"{name} {UNKNOWN}, which has no gradient; {GIVE}")
        if not self._alike:
            raise ModelError(
                f"{name} {UNKNOWN}, of problems with the same pictures only; {GIVE}, or steer them one after the other"
            )
        call, question = self._open(len(latents))
        told = False
        while question is not None:
            if question.x.shape != latents.shape:  # of the sound of a video, which has a scheduler of its own
                question = call.go_on()
                continue
            x = latents.to(question.x)
            call.skip_step()
            question, told = call.resume(x, x), True
        if not told:
            raise ModelError(f"{name} draws latents of other shapes than {tuple(latents.shape[1:])}; {GIVE}")
        _, value = read_first(call.returned)
        if isinstance(value, np.ndarray) and value.ndim > 3:  # channels last
            value = torch.from_numpy(np.moveaxis(value, -1, -3))
        if not isinstance(value, Tensor) or len(value) != len(latents):
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ModelError(f"{name} returns {found} of {len(latents)} samples; {GIVE}")
        return raise_precision(value.detach())

    def _open(self, n: int) -> tuple[Call, Question]:
        """A call for `n` samples at its first question, without what checks pictures, unless it insists on that."""
        sources = [torch.Generator("cpu").manual_seed(self._seed) for _ in range(n)]
        try:
            return open_call(self._mine, (self._call,), sources, self._options, silent=self._known)
        except ModelError:
            if all(getattr(self.pipe, name, None) is None for name in CHECKS):
                raise
        self._mine = _copy_decoders(self.pipe, checks=True)
        return open_call(self._mine, (self._call,), sources, self._options, silent=self._known)

    @functools.cached_property
    def _mine(self) -> Any:
        return _copy_decoders(self.pipe)


SHADE = 1.5 / 255
"""How far two pictures may differ that are the same, one of which may have been rounded to bytes on its way."""
UNKNOWN = "decodes in a way of its own, at the end of its call"
GIVE = "give from_pipeline decode=, a function of latents (R, ...) that returns samples (R, ...) from 0 to 1"


def find_decoder(
    end: OwnEnd,
    size: Mapping[str, int],
    x: Tensor,
    decode: Decode | None,
    preview: Preview,
    fits: dict[tuple[int, ...], Fit],
) -> tuple[Decode, Decode]:
    """What decodes latents such as `x` (N, ...), and what previews them, where a user has given `decode` and `preview`.

    What a user has not given is tried: the usual decoders, for pictures of this `size`, and where these fail, or make
    another video than it does, the `end` of the pipeline's own call. Raises ModelError where none of them is right.
    """
    found = decode or decoder_of(end.pipe, {**end.calls[0], **size}) or end
    shown = preview_of(preview, found, decode is None, fits)
    if decode is not None:
        return found, shown
    failure: ModelError | None = None
    try:
        try_decoder(found, shown, x)
    except ModelError as error:
        if not isinstance(found, Decoder | Sounds):
            raise
        failure = error
    if failure is None and not (isinstance(found, Decoder) and x.ndim == 5):
        return found, shown
    with contextlib.suppress(ModelError, RuntimeError), torch.no_grad():
        wanted = end(x[:1])
        made = found(x[:1]) if failure is None else None
        if made is None or made.shape != wanted.shape:
            return end, shown if callable(preview) else preview_of(preview, end, True, fits)
        if (made - wanted).abs().max() > SHADE:
            return end, shown if shown is not found else end
    if failure is not None:
        raise failure
    return found, shown


def reader_for(pipe: Any, decode: Decode) -> Callable[[Any, Tensor], Tensor]:
    """How the latents are read that a call of `pipe` has returned; its own end makes of them what the call does."""
    return keep_latents if isinstance(decode, OwnEnd) else functools.partial(read_latents, asked=ask_for(pipe))


def _copy_decoders(pipe: Any, checks: bool = False) -> Any:
    """A shallow copy of `pipe` with decoders that it may write to, with or without what `checks` finished pictures."""
    mine = object.__new__(type(pipe))
    for name, value in vars(pipe).items():
        decodes = isinstance(value, torch.nn.Module) and hasattr(value, "decode") and hasattr(value, "config")
        mine.__dict__[name] = None if name in CHECKS and not checks else copy_vae(value) if decodes else value
    return mine


def _differ_in_texts(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(value is other.get(name) or isinstance(value, str | int | float) for name, value in one.items())
