"""A diffusion or flow sampler as a Feynman-Kac model: one step is one transition of every latent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feynkac.base.capabilities import Adapts, Biased, ChecksForks, has
from feynkac.base.clock import charge
from feynkac.base.contract import LogW, Mask, Rng, Rows
from feynkac.base.errors import ArgumentError
from feynkac.base.memory import Memory
from feynkac.models.diffusion.composition import corrector
from feynkac.models.diffusion.denoisers import Denoiser, Predictor, Recurrent
from feynkac.models.diffusion.kernel import Transition
from feynkac.models.diffusion.paths import LatentPath, Past, check_path
from feynkac.models.diffusion.proposals import BASE, Proposal
from feynkac.models.diffusion.reading import read_parts
from feynkac.models.diffusion.saving import check_source, identify_sampler, load_latents, save_latents
from feynkac.models.diffusion.schedule import NoiseSchedule
from feynkac.models.diffusion.shifted import Shifted
from feynkac.models.diffusion.sources import Denoisers, Source, check_replayable
from feynkac.models.diffusion.state import DENOISER_CARRY, PROPOSAL_CARRY, Latents
from feynkac.models.diffusion.tree import with_row_0


def _show_latents(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class DiffusionSampler:
    """What a denoiser samples along a noise schedule, as a model of the engine.

    The law p of a sample is that of the discrete chain as it is run: steps, eta, guidance of the denoiser and all.
    `denoiser` may also be any other `Source` of predictions. `shape` is that of one latent. `decode` turns final
    latents (R, ...) into what rewards see; `preview` does so for the clean latents that guesses see, and may be
    cheaper. The network, `decode` and `preview` get at most `batch` rows at a time. A schedule without noise can be
    sampled, but its particles cannot be copied (see `check_forks`). Raises ArgumentError.
    """

    denoiser: Denoiser | Predictor | Recurrent | Source
    schedule: NoiseSchedule
    shape: tuple[int, ...]
    proposal: Proposal = field(default=BASE, kw_only=True)
    decode: Callable[[Tensor], Tensor] = field(default=_show_latents, kw_only=True)
    preview: Callable[[Tensor], Tensor] = field(default=None, kw_only=True)  # type: ignore[assignment]
    batch: int | None = field(default=None, kw_only=True)
    dtype: torch.dtype = field(default=torch.float32, kw_only=True)
    device: torch.device | str = field(default="cpu", kw_only=True)

    name = "diffusion sampler"

    def __post_init__(self) -> None:
        for name, value in read_parts(self).items():
            object.__setattr__(self, name, value)
        self._check_proposal()

    def _check_proposal(self) -> None:
        if self.schedule.stochastic or self.proposal is BASE:
            return
        if not self.biased:
            nothing = f"{self.proposal} has nothing to shift, as this schedule draws no noise"
            raise ArgumentError(f"{nothing}; {self.schedule.advise_noise()}")
        if isinstance(self.proposal, Shifted):
            self.proposal.check_noiseless()

    def check_forks(self) -> None:
        """Raises ArgumentError where the schedule draws no noise, and what the source raises."""
        if not (self.schedule.stochastic or self.schedule.moved):
            raise ArgumentError(
                "this schedule draws no noise, so that copies of a particle would stay identical for ever; "
                f"{self.schedule.advise_noise()}, or algorithm='best_of_n' or 'importance', which copy nothing"
            )
        if has(self.source, ChecksForks):
            self.source.check_forks()

    @cached_property
    def source(self) -> Source:
        """Where predictions come from."""
        return self.denoiser if isinstance(self.denoiser, Source) else Denoisers([self.denoiser])

    @property
    def biased(self) -> bool:
        """Whether the proposal leaves its weights out, so that the samples follow no declared target."""
        return isinstance(self.proposal, Biased) and self.proposal.biased

    @property
    def adapts(self) -> bool:
        """Whether the proposal goes by all particles."""
        return isinstance(self.proposal, Adapts) and self.proposal.adapts

    @property
    def max_steps(self) -> int:
        """The number of steps that a run takes."""
        return len(self.schedule)

    @property
    def size(self) -> int:
        """The number of coordinates of a latent."""
        return int(np.prod(self.shape))

    def join(self, others: Sequence[Any]) -> DiffusionSampler:
        """One model of several problems in one batch: samplers that differ in nothing but their denoiser."""
        denoisers = list[Denoiser | Predictor | Recurrent]()
        for each in (self, *others):
            alike = isinstance(each, DiffusionSampler) and replace(each, denoiser=self.denoiser) == self
            if not alike or not isinstance(each.source, Denoisers):
                raise ArgumentError("problems run in one batch only if their samplers differ in the denoiser alone")
            denoisers += each.source.denoisers
        return replace(self, denoiser=Denoisers(denoisers))

    def init(self, n: int, rng: Rng) -> Latents:
        """`n` latents at the noisiest level, the same number for each problem."""
        count = self.source.problems
        if n % count:
            raise ArgumentError(f"{n} particles for {count} problems; give each the same number")
        x, owed = self.source.draw_first(self, n, rng)
        return Latents(
            sampler=self,
            t=0,
            x=x,
            group=np.repeat(np.arange(count), n // count),
            alive=np.ones(n, dtype=np.bool_),
            owed=owed,
            since=np.zeros(n),
            memory=Memory(n),
        )

    def step(self, t: int, state: Latents, rng: Rng) -> tuple[Latents, LogW]:
        """Move every latent to the next level.

        The increment, in nats, is the log-ratio of kernel and proposal, and the Feynman-Kac corrector of a composition.
        """
        return self.advance(state, rng)

    def replay(self, t: int, state: Latents, rng: Rng, reference: LatentPath) -> tuple[Latents, LogW]:
        """Like `step`, except that row 0 goes from latent to latent of `reference`.

        Its increment is that of these latents under the proposal as it is here: a proposal, or a guess, may depend on
        the whole population, and conditional SMC is then exact all the same. Raises ArgumentError for the path of
        another sampler, and for a proposal that cannot weigh a given latent.
        """
        check_path(reference, len(self.schedule) + 1, self.shape)
        if state.t == 0:
            state = self.pin(state, reference)
        return self.advance(state, rng, reference)

    def pin(self, state: Latents, reference: LatentPath) -> Latents:
        """The particles before the first step, with row 0 where `reference` starts; their paths are kept."""
        x, owed = self.source.pin_first(state, reference)
        return replace(state, x=x, owed=owed, leaves={}, past=Past.start(x, self.source.seeds))

    def trace(self, state: Latents, row: int) -> LatentPath:
        """The path of a `row`. Raises ArgumentError if it was not kept (see `Latents.record`)."""
        if state.past is None:
            raise ArgumentError("the paths of these particles were not kept; call state.record() before the first step")
        return state.past.path(row)

    def advance(self, state: Latents, rng: Rng, reference: LatentPath | None = None) -> tuple[Latents, LogW]:
        """One step, of which row 0 is given by `reference`, if there is one."""
        if state.t == len(self.schedule):
            return state, np.zeros(len(state))
        transition, prediction = self.schedule.transitions[state.t], state.look()
        x, log_w = self._draw(state, transition, rng, reference)
        if prediction.rate is not None:
            log_w = log_w + corrector(self.source.power, prediction.rate, transition, self.size)
        inc = np.where(state.alive, log_w.cpu().numpy() + state.owed, 0.0)
        child = replace(
            state,
            t=state.t + 1,
            x=x,
            owed=np.zeros(len(state)),
            since=state.since + inc,
            leaves={},
            denoised=prediction.estimate,
            carry={name: state.leaves[name] for name in (DENOISER_CARRY, PROPOSAL_CARRY) if name in state.leaves},
            past=state.past and state.past.grow(x),
        )
        self.source.follow(child)
        return child, inc

    def prepare_saving(self) -> DiffusionSampler:
        """See `feynkac.base.capabilities.Saves`. Raises ArgumentError unless it asks denoisers."""
        check_source(self)
        return self

    def identify(self) -> dict[str, Any]:
        """What tells this model from others."""
        return identify_sampler(self)

    def save(self, state: Latents) -> Any:
        """See `feynkac.base.capabilities.Saves`."""
        return save_latents(state)

    def load(self, saved: Any) -> Latents:
        """What `save` wrote."""
        return load_latents(self, saved)

    def write_path(self, path: LatentPath) -> Any:
        """See `feynkac.base.capabilities.SavesPaths`."""
        return path.latents, path.seed

    def read_path(self, saved: Any) -> LatentPath:
        """What `write_path` wrote."""
        latents, seed = saved
        return LatentPath(tuple(each.to(self.device) for each in latents), seed)

    def done(self, state: Latents) -> Mask:
        """(N,) whether the last level is reached, which all rows do together."""
        return np.full(len(state), state.t == len(self.schedule))

    @charge("model")
    def look(self, state: Latents) -> None:
        """Ask the source about `state`, and keep among its leaves what it says; called by `Latents.look`, once."""
        state.leaves.update(self.source.look(state))
        self.proposal.prepare(state)
        state.tape = None

    def batches(self, rows: Rows) -> Iterator[Rows]:
        """`rows` in parts of at most `batch`."""
        size = self.batch or max(len(rows), 1)
        for first in range(0, len(rows), size):
            yield rows[first : first + size]

    def _draw(
        self, state: Latents, transition: Transition, rng: Rng, reference: LatentPath | None
    ) -> tuple[Tensor, Tensor]:
        """Next latents (N, ...), and (N,) float64 nats log p/q; row 0 is that of `reference`, if there is one."""
        given = None if reference is None else reference.latents[state.t + 1]
        own = self.source.draw_next(state)
        if own is not None:  # from the kernel itself
            return own if given is None else with_row_0(own, given), own.new_zeros(len(own), dtype=torch.float64)
        mean = transition.mean(state.prediction.x0hat, state.prediction.epshat)
        if transition.std > 0.0 or (self.biased and not self.schedule.stochastic):
            x, log_w = self.proposal.move(state, transition, mean, self.source.draw_noise(self, len(state), rng))
        else:  # nothing to draw, hence nothing to propose
            x, log_w = mean, mean.new_zeros(len(mean), dtype=torch.float64)
        if given is None:
            return x, log_w
        x = with_row_0(x, given)
        return x, self._weigh_again(state, transition, mean, x, log_w)

    def _weigh_again(self, state: Latents, transition: Transition, mean: Tensor, x: Tensor, log_w: Tensor) -> Tensor:
        """(N,) nats: `log_w` with the ratio of row 0 for the latent that it was given."""
        if transition.std == 0.0:
            return log_w
        return with_row_0(log_w, check_replayable(self.proposal).ratio(state, transition, mean, x)[0])
