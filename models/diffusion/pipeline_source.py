"""A pipeline's call as the source of a sampler's predictions: it asks for the next latents, and the engine answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from feynkac.base.contract import LogW, Rng, Rows, State
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models.diffusion.decoding import raise_precision
from feynkac.models.diffusion.forkable import Twins
from feynkac.models.diffusion.gradients import Pull, pull_back, require_graph
from feynkac.models.diffusion.paths import LatentPath
from feynkac.models.diffusion.pipeline_copy import Question
from feynkac.models.diffusion.pipeline_singly import Call
from feynkac.models.diffusion.pipeline_whole import keep_latents
from feynkac.models.diffusion.proposals import BASE, Proposal, keeps_graph
from feynkac.models.diffusion.saving import load_generators, save_generators
from feynkac.models.diffusion.schedule import NoiseSchedule
from feynkac.models.diffusion.scheduler_trial import Tried
from feynkac.models.diffusion.schedulers import own_options, prediction_of
from feynkac.models.diffusion.state import Latents

if TYPE_CHECKING:
    from feynkac.models.diffusion.sampler import DiffusionSampler

TWICE = (
    "it calls its scheduler's step more than once per iteration, as for a sound beside the pictures, or goes by times "
    "of its own, and cannot be steered; where its scheduler draws no noise, as without eta=, algorithm='best_of_n' and "
    "'importance' run it whole"
)


class PipelineSource:
    """One call of a pipeline, which runs its own network, as the `Source` of a sampler.

    `problems`: the prompts in its batch. `generators`: one for each slot. `eta` and `proposal` as those of the sampler:
    where they ask for the kernel that the scheduler's own `step` draws from, that step is taken. `read`: the latents
    that the pipeline has returned, of those that led there. `check_forks` is called before particles are copied.
    `tried`: what is known of schedulers.
    """

    power = 1.0

    def __init__(
        self,
        call: Call,
        problems: int,
        generators: Sequence[torch.Generator],
        eta: float | None,
        proposal: Proposal,
        read: Callable[[Any, Tensor], Tensor] = keep_latents,
        check_forks: Callable[[], None] = lambda: None,
        tried: Tried | None = None,
    ) -> None:
        self._call, self.problems, self._generators, self._read = call, problems, generators, read
        self.given: list[tuple[Tensor, Tensor]] | None = None
        """The latents that the pipeline was given so far, and those expected; None where they are not kept."""
        self._own = own_options(call.scheduler, eta, tried) if proposal is BASE else None
        self._twins, self.check_forks = Twins(problems), check_forks
        self._said: Tensor | None = None
        """(N, ...) the clean latents that the scheduler's own last step said: some pipelines return them."""

    @property
    def seeds(self) -> list[int]:
        """(N,) what the generators were seeded with: the pipeline draws the first latents with them."""
        return [each.initial_seed() for each in self._generators]

    def keep_apart(self) -> None:
        """Let each slot draw from its own generator from now on."""
        self._twins.stop()

    def draw_first(self, sampler: DiffusionSampler, n: int, rng: Rng) -> tuple[Tensor, LogW]:
        """(n, ...) the latents of the pipeline's first question, and (n,) zeros."""
        x = _check(self._call.question, 0, sampler).x.detach()  # some ask for their gradient while they run
        return x if self._own is not None else raise_precision(x), np.zeros(n)

    def pin_first(self, state: Latents, reference: LatentPath) -> tuple[Tensor, LogW]:
        """The latents as they are, of which the pipeline has drawn row 0 from the reference's seed."""
        if not torch.equal(state.x[0], reference.latents[0].to(state.x)):
            raise ArgumentError("this path starts elsewhere; take one that a trace of the same pipeline has returned")
        self._twins.stop()  # the others' law given the path must be that of a run in which it was drawn
        return state.x, state.owed

    def draw_noise(self, sampler: DiffusionSampler, n: int, rng: Rng) -> Tensor:
        """(n, ...) from the generators, as the scheduler's own `step` takes it."""
        from diffusers.utils.torch_utils import randn_tensor

        dtype = torch.promote_types(sampler.dtype, torch.float32)
        return randn_tensor(
            (n, *sampler.shape), self._twins.share(self._generators), torch.device(sampler.device), dtype
        )

    def look(self, state: Latents) -> dict[str, Tensor]:
        """Resume the pipeline with the latents of `state`, and return what its network says about them."""
        level, x = state.noise_level, raise_precision(state.x)
        graph = keeps_graph(state.sampler.proposal) and state.t > 0 and level.alpha > 0.0
        if graph:
            x = x.detach().clone().requires_grad_()
        question = self._ask(state, x, graph)
        self._call.tell(state)
        output = question.output.detach()
        self._twins.compare(state.x, output, self._call.room.parted)
        with torch.set_grad_enabled(graph):
            said = prediction_of(self._call.scheduler, raise_precision(question.output), x, level)
        if graph:
            require_graph(question.output, self._call.name)
            state.tape = (x, said.x0hat)
        return {"output": output, "x0hat": said.x0hat.detach(), "epshat": said.epshat.detach()}

    def _ask(self, state: Latents, x: Tensor, graph: bool) -> Question:
        """What the pipeline asks about the latents of `state`, given to it as `x`, with the graph from there."""
        if self._call.count != max(state.t, 1):
            raise ModelError(f"these are the particles of step {state.t}, but a pipeline only runs forward")
        answer = self._call.question if state.t == 0 else self._resume(state, x, graph)
        question, due = _check(answer, state.t, state.sampler), state.noise_level
        if not math.isclose(float(question.time), due.time, rel_tol=1e-4, abs_tol=1e-3):
            raise ModelError(f"the pipeline is at time {float(question.time):g} where {due.time:g} was due: {TWICE}")
        given = state.x.to(question.x.dtype)
        if not (torch.equal(question.x, given) or _equal_with_nan(question.x, given)):
            raise ModelError(
                "the pipeline changes its latents between the steps of its scheduler, with what may differ between "
                "particles and would not fork with them; it cannot be steered"
            )
        return question

    def pulls(self, state: Latents) -> Iterator[tuple[Rows, Pull]] | None:
        """All rows in one part, as the pipeline runs them; None at the first step, whose latents it draws itself."""
        if state.tape is None:
            return None
        alive = np.flatnonzero(state.alive)
        return iter([(alive, partial(_pull_rows, state.tape, torch.as_tensor(alive, device=state.x.device)))])

    def draw_next(self, state: Latents) -> Tensor | None:
        """(N, ...) the latents that the scheduler's own `step` makes, where it draws from the sampler's kernel."""
        if state.t + 1 < len(state.sampler.schedule):  # after the last step nothing is asked that could be compared
            self._twins.pair(state.x, state.group)
        if self._own is None:
            return None
        shared = self._twins.share(self._generators)
        x, *rest = self._call.take_own_step(state.leaves["output"], state.x, shared, self._own)
        self._said = rest[0] if rest else None
        return x

    def follow(self, state: Latents) -> None:
        """Let the scheduler count the step; after the last one, let the pipeline end, and take what it returns."""
        if self._own is None:
            self._call.skip_step()
        if state.t < len(state.sampler.schedule):
            return
        if self._resume(state, state.x, x0=self._said) is not None:
            raise ModelError(f"the pipeline goes on after its {state.t} steps: {TWICE}")
        state.x = self._read(self._call.returned, state.x)

    def _resume(self, state: Latents, x: Tensor, graph: bool = False, x0: Tensor | None = None) -> Question | None:
        """Hand the latents over as the pipeline keeps them; its own step may have changed their type."""
        assert state.denoised is not None
        dtype = state.x.dtype if self._own is not None else state.sampler.dtype
        x0 = state.denoised if x0 is None else x0
        with torch.set_grad_enabled(graph):  # a copy, which the pipeline may write to
            given, x0 = x.clone().to(dtype) if graph else x.to(dtype), x0.to(dtype)
        if self.given is not None:
            self.given.append((given.detach().clone(), x0.clone()))
        return self._call.resume(given, x0, graph)

    def save(self) -> dict[str, Any]:
        """What leads another call to where this one is."""
        return {"given": self.given, "generators": save_generators(self._generators), "twins": self._twins.save()}

    def load(self, saved: dict[str, Any], steps: int) -> None:
        """Lead the call through what `save` gave, up to where `steps` of the scheduler were taken."""
        self.given = saved["given"]
        for x, x0 in saved["given"]:
            self._call.skip_step()
            if self._call.resume(x.to(self._device), x0.to(self._device)) is None:
                raise ModelError("the pipeline has fewer steps than when its run was saved; start the run again")
        for _ in range(steps - len(saved["given"])):
            self._call.skip_step()
        load_generators(self._generators, saved["generators"])
        self._twins.load(saved["twins"])

    @property
    def _device(self) -> torch.device:
        assert self._call.question is not None
        return self._call.question.x.device


def _equal_with_nan(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, 0.0, 0.0, equal_nan=True)


def _pull_rows(tape: tuple[Tensor, Tensor], rows: Tensor, gradient: Tensor, again: bool) -> Tensor:
    """(R, ...) a gradient of the estimates of `rows` as one of their latents; the graph is of all rows."""
    x, estimate = tape
    whole = x.new_zeros(x.shape).index_copy(0, rows, gradient.to(x))
    return pull_back(x, estimate, whole, again).index_select(0, rows)


class Prepared:
    """The particles of a call of which nothing is drawn yet: its generators may still be set."""

    def __init__(self, n: int, begin: Callable[[], Latents], generators: Sequence[torch.Generator]) -> None:
        self._n, self._begin, self._generators = n, begin, generators
        self._records = False

    def __len__(self) -> int:
        return self._n

    def fork(self, rows: Rows) -> State:
        """Refused: there is nothing yet in which particles could differ."""
        raise ModelError("the pipeline has not begun; particles are forked after the first step")

    def record(self) -> None:
        """Keep the paths of all particles."""
        self._records = True

    def begin(self, reference: LatentPath | None = None) -> Latents:
        """The particles at the first question of the pipeline, row 0 with the first latent of `reference`."""
        if reference is not None and reference.seed is not None:
            self._generators[0].manual_seed(reference.seed)
        state = self._begin()
        if self._records:
            state.record()
        return state


def part_from(schedule: NoiseSchedule, time: float) -> NoiseSchedule:
    """The part of the chain from `time` on: some pipelines start from a picture, in the middle."""
    for k, transition in enumerate(schedule.transitions):
        if math.isclose(transition.before.time, time, rel_tol=1e-4, abs_tol=1e-3):
            return replace(schedule, transitions=schedule.transitions[k:])
    raise ModelError(f"the pipeline starts at time {time:g}, which is none of its scheduler's")


def _check(question: Question | None, t: int, sampler: DiffusionSampler) -> Question:
    if question is None:
        raise ModelError(
            f"the pipeline ended after {t} of {len(sampler.schedule)} steps; a callback that sets its _interrupt does "
            "that: to stop early, give steer budget=fk.Budget(...), or leave a loop over fk.stream(...)"
        )
    if question.unusual:
        raise ModelError(question.unusual)
    return question
