"""A pipeline's own call, suspended wherever its scheduler takes a step.

The call runs on a greenlet with a copy of the pipeline's scheduler, of a subclass made on the spot whose `step` hands
the network's output over and waits for the next latents. While it waits, the pipeline is as it was found.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor

from feynkac.base.errors import FeynkacError, ModelError, is_out_of_memory

USUAL = ("self", "model_output", "timestep", "sample", "eta", "generator", "return_dict")
"""Arguments of `step` that are handled; any other must be left at its default."""


class Question(NamedTuple):
    """What the pipeline gave to its scheduler: what becomes of the latents `x` (N, ...)?"""

    output: Tensor
    """(N, ...) what the network, guidance included, predicts."""
    time: Any
    """The timestep, in the units of the scheduler."""
    x: Tensor


class Stepped(NamedTuple):
    """The answer, by the names and in the order of every scheduler's output."""

    prev_sample: Tensor
    pred_original_sample: Tensor
    denoised: Tensor


def suspending(scheduler: Any) -> Any:
    """A copy of `scheduler` whose `step` asks the parent greenlet; its signature stays, since pipelines look at it."""
    base = type(scheduler)
    signature = inspect.signature(base.step)

    # It must hold no reference to the Call: nothing could collect a cycle that goes through a suspended frame.
    @functools.wraps(base.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs).arguments
        for name, value in given.items():
            default = signature.parameters[name].default
            if name not in USUAL and value is not default and (default or (value is not None and value is not False)):
                raise ModelError(
                    f"the pipeline calls {base.__name__}.step with {name}={value!r}; only its default can be steered"
                )
        parent = getcurrent().parent
        assert parent is not None
        x, x0 = parent.switch(Question(given["model_output"], given["timestep"], given["sample"]))
        return Stepped(x, x0, x0) if given.get("return_dict", True) else (x, x0)

    mine = copy.deepcopy(scheduler)
    mine.__class__ = type(base.__name__, (base,), {"step": step, "__module__": base.__module__})
    return mine


class Call:
    """One call of a pipeline with `arguments`.

    Raises ModelError, when used, for what the pipeline raises, with a hint where memory ran out.
    """

    def __init__(self, pipe: Any, arguments: Mapping[str, Any]) -> None:
        self._pipe, self._base = pipe, type(pipe.scheduler)
        self.scheduler = suspending(pipe.scheduler)
        self.asked = 0
        """Questions so far."""
        self.question: Question | None = None
        # Past register_modules: a scheduler that is there for a moment is no part of the pipeline's config.
        self._inside = {**pipe.__dict__, "scheduler": self.scheduler, "_progress_bar_config": {"disable": True}}
        self._graph = torch.is_grad_enabled()
        self._greenlet = greenlet(lambda: pipe(**arguments))

    def start(self) -> Question | None:
        """Run to the first question; None if there was none."""
        return self._ask()

    def resume(self, x: Tensor, x0: Tensor) -> Question | None:
        """Go on with latents `x` (N, ...), whose clean latents are expected at `x0`; None if the pipeline has ended."""
        return self._ask((x, x0))

    def own_step(self, output: Tensor, x: Tensor, generators: Sequence[torch.Generator], eta: float | None) -> Tensor:
        """(N, ...) the next latents, as the scheduler's own `step` draws them."""
        assert self.question is not None
        options = {"eta": 1.0 if eta is None else eta} if self.takes_eta else {}  # as `schedule_of` has it
        return self._base.step(
            self.scheduler, output, self.question.time, x, generator=list(generators), return_dict=False, **options
        )[0]

    def skip_step(self) -> None:
        """Let the scheduler count a step that it did not take itself."""
        assert self.question is not None
        if hasattr(self.scheduler, "_step_index"):
            if self.scheduler.step_index is None:
                self.scheduler._init_step_index(self.question.time)
            self.scheduler._step_index += 1

    @functools.cached_property
    def takes_eta(self) -> bool:
        """Whether the scheduler's own `step` has an eta."""
        return "eta" in inspect.signature(self._base.step).parameters

    def close(self) -> None:
        """Unwind a call that will not be resumed."""
        if not self._greenlet.dead:
            self._inside_of(lambda: self._greenlet.throw(GreenletExit))

    def __del__(self) -> None:
        if hasattr(self, "_greenlet"):
            with contextlib.suppress(RuntimeError):  # at the end of the program it may be unwound already
                self.close()

    def _ask(self, *reply: Any) -> Question | None:
        if self._greenlet.dead:
            raise ModelError("the call of the pipeline has ended and cannot go on; start the run again")
        try:
            said = self._inside_of(lambda: self._greenlet.switch(*reply))
        except FeynkacError:
            raise
        except Exception as cause:
            raise ModelError(_explained(self._pipe, cause)) from cause
        self.question = said if isinstance(said, Question) else None
        self.asked += self.question is not None
        return self.question

    def _inside_of(self, switch: Any) -> Any:
        """Switch to the pipeline, with its attributes and its gradient mode in place for as long as it runs.

        The gradient mode belongs to the thread: without this the pipeline's `no_grad` would reach its caller.
        """
        found, graph = dict(self._pipe.__dict__), torch.is_grad_enabled()
        self._pipe.__dict__.update(self._inside)
        torch.set_grad_enabled(self._graph)
        self._greenlet.parent = getcurrent()
        try:
            return switch()
        finally:
            self._inside, self._graph = dict(self._pipe.__dict__), torch.is_grad_enabled()
            self._pipe.__dict__.clear()
            self._pipe.__dict__.update(found)
            torch.set_grad_enabled(graph)


def _explained(pipe: Any, cause: Exception) -> str:
    name = type(pipe).__name__
    if is_out_of_memory(cause):
        return (
            f"{name} ran out of memory: its network takes all particles in one batch (batch= is for the decoder); "
            "use fewer particles, half precision, pipe.enable_attention_slicing() or pipe.enable_model_cpu_offload()"
        )
    return f"{name} raised {type(cause).__name__}: {cause}"
