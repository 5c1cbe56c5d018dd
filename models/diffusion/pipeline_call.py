"""A pipeline's own call, suspended wherever its scheduler takes a step.

The call runs on a greenlet with a shallow copy of the pipeline: the same networks, but attributes and config of its
own, and a copy of the scheduler, of a subclass made on the spot whose `step` hands the network's output over and waits
for the next latents, or to be told to draw them itself. The user's pipeline is never written to, so that any number of
calls may be under way at once.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor

from feynkac.base.errors import FeynkacError, ModelError, is_out_of_memory
from feynkac.models.diffusion.checks import tell
from feynkac.models.diffusion.pipeline_copy import Question, copy_pipeline, watch_size
from feynkac.models.diffusion.pipeline_parts import Room, place_parts

if TYPE_CHECKING:
    from feynkac.models.diffusion.state import Latents

_FIRST_PASS = threading.RLock()
"""Held from the beginning of a call to its first question: tokenizers, which are many pipelines' only shared objects
that change when they are used, cannot be used by two threads at once."""


class PipelineCall:
    """One call of a pipeline with `arguments` for all samples of a `room`; only the thread that has started it uses it.

    Its networks get as many of these at a time as the room says. Some pipelines hold each latent twice, for guidance;
    questions and answers are about one of the two. Raises
    ModelError, when used, for what the pipeline raises, with a hint where memory ran out.
    """

    def __init__(self, pipe: Any, arguments: Mapping[str, Any], room: Room) -> None:
        mine, rows = copy_pipeline(pipe), room.particles
        self.room = room
        place_parts(mine, self.room)
        self.size = watch_size(mine)
        """The height and width that the pipeline draws its latents for, by name, once it has."""
        self._rows, self._twice = rows, False
        self.returned: Any = None
        """What the pipeline has returned, once it has ended."""
        self.failure: Exception | None = None
        """What the pipeline itself has raised."""
        self.name, self._step = type(pipe).__name__, type(pipe.scheduler).step
        self.scheduler = mine.scheduler
        self.count = 0
        """Questions so far."""
        self.question: Question | None = None
        self._shield = contextlib.ExitStack()  # what keeps the pipeline's inference mode from its caller
        self._graph = torch.is_grad_enabled()
        self._thread = threading.get_ident()
        self._greenlet = greenlet(lambda: mine(**arguments))

    def start(self) -> Question | None:
        """Run to the first question; None if there was none."""
        with _FIRST_PASS:
            return self._ask()

    def resume(self, x: Tensor, x0: Tensor, graph: bool = False) -> Question | None:
        """Go on with latents `x` (N, ...), whose clean latents are expected at `x0`; None if the pipeline has ended.

        `graph`: what it does up to the next question keeps the graph that leads to `x`.
        """
        before = self._graph
        self._graph = graph or before
        try:
            return self._ask((torch.cat([x, x]), torch.cat([x0, x0])) if self._twice else (x, x0))
        finally:
            self._graph = before if graph else self._graph

    def go_on(self) -> Question | None:
        """Let the scheduler take its own step; None if the pipeline has ended."""
        return self._ask(None)

    def finish(self) -> Tensor:
        """(N, ...) the latents that the scheduler draws by its own steps, all of which are taken to the end."""
        while self.question is not None:
            self.go_on()
        drawn = self.scheduler.__dict__.get("_drawn")
        if drawn is None:
            raise ModelError(f"{self.name} leaves its steps to copies of its scheduler, and cannot be steered")
        return drawn[: self._rows] if self._twice else drawn

    def take_own_step(
        self, output: Tensor, x: Tensor, generators: Sequence[torch.Generator], options: Mapping[str, Any]
    ) -> tuple[Tensor, ...]:
        """(N, ...) the next latents, as the scheduler's own `step` draws them, and what else it says, if anything."""
        assert self.question is not None
        return self._step(
            self.scheduler, output, self.question.time, x, generator=list(generators), return_dict=False, **options
        )

    def skip_step(self) -> None:
        """Let the scheduler count a step that it did not take itself."""
        assert self.question is not None
        if hasattr(self.scheduler, "_step_index"):
            if self.scheduler.step_index is None:
                self.scheduler._init_step_index(self.question.time)
            self.scheduler._step_index += 1

    def tell(self, state: Latents) -> None:
        """Let the results of the run of `state` say where memory ran out in its networks."""
        while self.room.said:
            tell(state, self.room.said.pop())

    def close(self) -> None:
        """Unwind a call that will not be resumed."""
        if not self._greenlet.dead:
            self._switch(lambda: self._greenlet.throw(GreenletExit))

    def __del__(self) -> None:
        # A greenlet can be entered by its own thread only. Where another one collects it, greenlet itself sees to it
        # that its thread unwinds it. At the end of the program it may be unwound already.
        if "_greenlet" in self.__dict__ and self._thread == threading.get_ident():
            with contextlib.suppress(RuntimeError):
                self.close()

    def _ask(self, *reply: Any) -> Question | None:
        if self._thread != threading.get_ident():
            raise ModelError("a run of a pipeline goes on in the thread that has started it; start the run again here")
        if self._greenlet.dead:
            raise ModelError("the call of the pipeline has ended and cannot go on; start the run again")
        try:
            said = self._switch(lambda: self._greenlet.switch(*reply))
        except FeynkacError:
            raise
        except Exception as cause:
            self.failure = cause
            raise ModelError(_explain(self.name, cause)) from cause
        self.question = self._halve(said) if isinstance(said, Question) else None
        self.count += self.question is not None
        if self.question is None:
            self.returned = said
        return self.question

    def _halve(self, said: Question) -> Question:
        """The question about `rows` latents, where the pipeline asks about each of them twice."""
        n = self._rows
        if not isinstance(said.x, Tensor) or len(said.x) != 2 * n or len(said.output) != 2 * n:
            return said
        self._twice = torch.equal(said.x[:n], said.x[n:]) and torch.equal(said.output[:n], said.output[n:])
        return said._replace(output=said.output[:n], x=said.x[:n]) if self._twice else said

    def _switch(self, enter: Callable[[], Any]) -> Any:
        """Enter the pipeline, with its gradient mode in place for as long as it runs.

        The gradient mode and inference mode belong to the thread: without this the pipeline's `no_grad` would reach its
        caller.
        """
        graph, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        self._shield.close()
        torch.set_grad_enabled(self._graph)
        self._greenlet.parent = getcurrent()
        try:
            return enter()
        finally:
            self._graph = torch.is_grad_enabled()
            if torch.is_inference_mode_enabled() != inference:
                self._shield.enter_context(torch.inference_mode(inference))
            torch.set_grad_enabled(graph)


def _explain(name: str, cause: Exception) -> str:
    """The error message for what pipeline `name` raised."""
    if is_out_of_memory(cause):
        return (
            f"{name} ran out of memory, and smaller batches of its networks are no help; use fewer particles, half "
            "precision, pipe.enable_attention_slicing() or pipe.enable_model_cpu_offload()"
        )
    return f"{name} raised {type(cause).__name__}: {cause}"
