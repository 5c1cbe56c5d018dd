"""The calls of a pipeline that makes one sample at a time: one for each particle, which go on side by side."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from feynkac.base.errors import ModelError
from feynkac.models.diffusion.pipeline_call import PipelineCall
from feynkac.models.diffusion.pipeline_copy import Question
from feynkac.models.diffusion.pipeline_whole import read_first

if TYPE_CHECKING:
    from feynkac.models.diffusion.state import Latents

_log = logging.getLogger(__name__)


class SingleCalls:
    """What a `PipelineCall` is for all particles together, of `calls` for one each, which stand at a question.

    Conditions are held once for each, and networks see one particle at a time; the latents, and what is done with
    them, are of all. Raises ModelError, when used, as a `PipelineCall` does, and where the calls do not keep step.
    """

    def __init__(self, calls: Sequence[PipelineCall]) -> None:
        self._calls = calls
        first = calls[0]
        self.name, self.scheduler, self.room, self.size = first.name, first.scheduler, first.room, first.size
        self.question = self._join([each.question for each in calls])
        _log.info("%s makes one sample in a call, and is called once for each of %d particles", first.name, len(calls))

    @property
    def count(self) -> int:
        """Questions so far."""
        return self._calls[0].count

    @property
    def returned(self) -> Any:
        """What the calls have returned first, together, once they have ended; None where it cannot be put together."""
        found = [read_first(each.returned) for each in self._calls]
        name, values = found[0][0], [value for _, value in found]
        if all(isinstance(value, Tensor) for value in values):
            return {name: torch.cat(values)}
        return {name: np.concatenate(values)} if all(isinstance(value, np.ndarray) for value in values) else None

    def resume(self, x: Tensor, x0: Tensor, graph: bool = False) -> Question | None:
        """See `PipelineCall.resume`."""
        rows = zip(self._calls, x.split(1), x0.split(1), strict=True)
        self.question = self._join([call.resume(mine, expected, graph) for call, mine, expected in rows])
        return self.question

    def go_on(self) -> Question | None:
        """See `PipelineCall.go_on`."""
        self.question = self._join([each.go_on() for each in self._calls])
        return self.question

    def finish(self) -> Tensor:
        """See `PipelineCall.finish`."""
        drawn = torch.cat([each.finish() for each in self._calls])
        self.question = None
        return drawn

    def take_own_step(
        self, output: Tensor, x: Tensor, generators: Sequence[torch.Generator], options: Mapping[str, Any]
    ) -> tuple[Tensor, ...]:
        """See `PipelineCall.take_own_step`; the scheduler of the first call takes it for all."""
        for other in self._calls[1:]:
            other.skip_step()
        return self._calls[0].take_own_step(output, x, generators, options)

    def skip_step(self) -> None:
        """Let the schedulers count a step that they did not take themselves."""
        for each in self._calls:
            each.skip_step()

    def tell(self, state: Latents) -> None:
        """Let the results of the run of `state` say where memory ran out in the networks."""
        for each in self._calls:
            each.tell(state)

    def _join(self, asked: Sequence[Question | None]) -> Question | None:
        """One question about all particles; None where all calls have ended."""
        questions = [each for each in asked if each is not None]
        if not questions:
            return None
        first = questions[0]
        if len(questions) < len(asked) or any(
            float(each.time) != float(first.time) or each.x.shape != first.x.shape for each in questions
        ):
            raise ModelError(f"{self.name} does not take the same steps for all particles, and cannot be steered")
        output, x = (torch.cat(parts) for parts in zip(*((each.output, each.x) for each in questions), strict=True))
        return Question(output, first.time, x, next((each.unusual for each in questions if each.unusual), ""))


Call: TypeAlias = PipelineCall | SingleCalls
"""The calls of a pipeline for all particles of a run, as one."""
