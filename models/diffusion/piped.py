"""The sampler that a pipeline's call is: the pipeline asks for the next latents, the engine answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feynkac.base.clock import costs
from feynkac.base.contract import LogW, Rng, Rows, State
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.base.memory import Memory
from feynkac.models.diffusion.checks import previewed
from feynkac.models.diffusion.decoding import precise
from feynkac.models.diffusion.denoisers import Prediction
from feynkac.models.diffusion.kernel import Level
from feynkac.models.diffusion.paths import Past, Path
from feynkac.models.diffusion.proposals import BASE
from feynkac.models.diffusion.sampler import DiffusionSampler, with_row_0
from feynkac.models.diffusion.schedule import NoiseSchedule
from feynkac.models.diffusion.schedulers import prediction_of
from feynkac.models.diffusion.state import Latents
from feynkac.models.diffusion.suspended import Call, Question
from feynkac.models.diffusion.tree import gather

TWICE = "it calls its scheduler's step more than once per iteration, or goes by times of its own, and cannot be steered"


class Prepared:
    """The particles of a call of which nothing is drawn yet: its generators may still be set."""

    def __init__(self, n: int, start: Callable[[], PipelineLatents], generators: Sequence[torch.Generator]) -> None:
        self._n, self._start, self._generators = n, start, generators
        self._recorded = False

    def __len__(self) -> int:
        return self._n

    def fork(self, rows: Rows) -> State:
        """Refused: there is nothing yet in which particles could differ."""
        raise ModelError("the pipeline has not begun; particles are forked after the first step")

    def record(self) -> None:
        """Keep the paths of all particles."""
        self._recorded = True

    def begun(self, reference: Path | None = None) -> PipelineLatents:
        """The particles at the first question of the pipeline, row 0 with the first latent of `reference`."""
        if reference is not None and reference.seed is not None:
            self._generators[0].manual_seed(reference.seed)
        state = self._start()
        if self._recorded:
            state.record()
        return state


class PipelineLatents(Latents):
    """The latents of a pipeline in the middle of its call."""

    def record(self) -> None:
        """Keep the paths of all particles from now on, and of each the seed of its first latent."""
        sources = cast("PipelineSampler", self.sampler).generators
        self.past = Past.begun(self.x, [each.initial_seed() for each in sources])

    def samples(self, rows: Rows) -> list[Tensor]:
        """Images for `rows`; of unfinished rows the estimates, without a further call of the network."""
        if self.t == len(self.sampler.schedule) or "x0hat" in self.leaves:
            return super().samples(rows)
        with torch.no_grad():
            return [image for part in self.sampler.batches(rows) for image in self._shown(part)]

    def _shown(self, part: Rows) -> list[Tensor]:
        return list(previewed(self.sampler, gather(self.solver.get("denoised", self.x), part)).cpu())


@dataclass(frozen=True)
class PipelineSampler(DiffusionSampler):
    """The sampler that one call of a pipeline is."""

    call: Call = field(kw_only=True)
    eta: float | None = field(kw_only=True)
    generators: Sequence[torch.Generator] = field(kw_only=True)

    def first(self, question: Question, group: NDArray[np.int64]) -> PipelineLatents:
        """The particles at the first question of the pipeline."""
        n = len(question.x)
        x = question.x if self._own else precise(question.x)
        state = PipelineLatents(self, 0, x, group, np.ones(n, dtype=np.bool_), np.zeros(n), np.zeros(n), Memory(n))
        self._hear(state, question)
        return state

    def advance(self, state: Latents, rng: Rng, reference: Path | None = None) -> tuple[Latents, LogW]:
        """One step: by the scheduler's own `step` where it can, else by the same kernel."""
        if state.t == len(self.schedule):
            return state, np.zeros(len(state))
        x0hat, output = state.prediction.x0hat, state.leaves["output"]
        if self._own:
            x = self.call.own_step(output, state.x, self.generators, self.eta)
            x = x if reference is None else with_row_0(x, reference.latents[state.t + 1])
            past = state.past and state.past.grown(x)
            child, inc = replace(state, t=state.t + 1, x=x, leaves={}, past=past), np.zeros(len(state))
        else:
            child, inc = super().advance(state, rng, reference)
            self.call.skip_step()
        child = replace(child, solver={"denoised": x0hat})
        if child.t == len(self.schedule) and self._resume(child) is not None:
            raise ModelError(f"the pipeline goes on after its {child.t} steps: {TWICE}")
        return child, inc

    def pinned(self, state: Latents, reference: Path) -> Latents:
        """The particles before the first step, whose row 0 the pipeline itself has drawn from the reference's seed."""
        if not torch.equal(state.x[0], reference.latents[0].to(state.x)):
            raise ArgumentError("this path starts elsewhere; take one that a trace of the same pipeline has returned")
        state.record()
        return state

    @costs("model")
    def look(self, state: Latents) -> None:
        """Resume the pipeline with the latents of `state`, and keep what its network says about them."""
        if self.call.asked != state.t:
            raise ModelError(f"these are the particles of step {state.t}, but a pipeline only runs forward")
        self._hear(state, self._resume(state))

    def predict(self, state: Latents, rows: Rows, x: Tensor) -> Prediction:
        """Refused: the pipeline calls its network itself."""
        raise ArgumentError("a pipeline gives no gradient through its network; use Guided(..., through='x0hat')")

    @property
    def _own(self) -> bool:
        """Whether the scheduler's own `step` draws from the kernel that is asked for."""
        given = self.eta is None or self.call.takes_eta or (self.eta == 1.0 and not _is_flow(self.call.scheduler))
        return self.proposal is BASE and given

    def _resume(self, state: Latents) -> Question | None:
        """Hand the latents over as the pipeline keeps them; its own step may have changed their type."""
        dtype = state.x.dtype if self._own else self.dtype
        return self.call.resume(state.x.to(dtype), state.solver["denoised"].to(dtype))

    def _hear(self, state: Latents, question: Question | None) -> None:
        if question is None:
            raise ModelError(f"the pipeline ended after {state.t} of {len(self.schedule)} steps")
        if not math.isclose(float(question.time), state.level.time, rel_tol=1e-4, abs_tol=1e-3):
            raise ModelError(
                f"the pipeline is at time {float(question.time):g} where {state.level.time:g} was due: {TWICE}"
            )
        given = state.x.to(question.x.dtype)
        if question.x.shape != given.shape or not torch.allclose(question.x, given, 0.0, 0.0, equal_nan=True):
            raise ModelError(
                "the pipeline changes its latents between the steps of its scheduler, with what may differ between "
                "particles and would not fork with them; it cannot be steered"
            )
        said = prediction_of(self.call.scheduler, precise(question.output), precise(state.x), state.level)
        state.leaves.update(output=question.output, x0hat=said.x0hat, epshat=said.epshat)
        self.proposal.look(state)

    def _normal(self, n: int, rng: Rng) -> Tensor:
        dtype = torch.promote_types(self.dtype, torch.float32)
        from diffusers.utils.torch_utils import randn_tensor

        return randn_tensor((n, *self.shape), list(self.generators), torch.device(self.device), dtype)


def _is_flow(scheduler: Any) -> bool:
    return "FlowMatch" in type(scheduler).__name__ or "RFScheduler" in type(scheduler).__name__


class Piped:
    """Stands where a sampler has its denoiser."""

    def x0hat(self, x: Tensor, t: Level, /) -> Tensor:
        raise ModelError("the pipeline calls its network itself")


def part_from(schedule: NoiseSchedule, time: float) -> NoiseSchedule:
    """The part of the chain from `time` on: some pipelines start from a picture, in the middle."""
    for k, transition in enumerate(schedule.transitions):
        if math.isclose(transition.before.time, time, rel_tol=1e-4, abs_tol=1e-3):
            return replace(schedule, transitions=schedule.transitions[k:])
    raise ModelError(f"the pipeline starts at time {time:g}, which is none of its scheduler's")
