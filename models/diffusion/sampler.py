"""A diffusion or flow sampler as a Feynman-Kac model: one step is one transition of every latent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feynkac.base.clock import costs
from feynkac.base.contract import LogW, Mask, Rng, Rows
from feynkac.base.errors import ArgumentError
from feynkac.base.memory import Memory
from feynkac.models.diffusion.composition import corrector, start_of
from feynkac.models.diffusion.denoisers import Denoiser, Prediction, Predictor, predict
from feynkac.models.diffusion.kernel import Transition
from feynkac.models.diffusion.paths import Past, Path
from feynkac.models.diffusion.proposals import BASE, Proposal
from feynkac.models.diffusion.schedule import NoiseSchedule
from feynkac.models.diffusion.state import Latents
from feynkac.models.diffusion.tree import gather


def _latents(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class DiffusionSampler:
    """What a denoiser samples along a noise schedule, as a model of the engine.

    The law p of a sample is that of the discrete chain as it is run: steps, eta, guidance of the denoiser and all.
    `shape` is that of one latent. `decode` turns final latents (R, ...) into what rewards see; `preview` does so for
    the clean latents that guesses see, and may be cheaper. The network, `decode` and `preview` get at most `batch`
    rows at a time. Raises ArgumentError for a schedule without noise.
    """

    denoiser: Denoiser | Predictor
    schedule: NoiseSchedule
    shape: tuple[int, ...]
    proposal: Proposal = field(default=BASE, kw_only=True)
    decode: Callable[[Tensor], Tensor] = field(default=_latents, kw_only=True)
    preview: Callable[[Tensor], Tensor] = field(default=None, kw_only=True)  # type: ignore[assignment]
    batch: int | None = field(default=None, kw_only=True)
    dtype: torch.dtype = field(default=torch.float32, kw_only=True)
    device: torch.device | str = field(default="cpu", kw_only=True)
    others: tuple[Denoiser | Predictor, ...] = field(default=(), kw_only=True)
    """Denoisers of further problems that run in the same batch (see `join`)."""

    name = "diffusion sampler"

    def __post_init__(self) -> None:
        if not self.schedule.stochastic:
            raise ArgumentError(
                "this schedule draws no noise, so that copies of a particle would stay identical for ever; set eta > 0 "
                "(eta=1 adds as much noise as DDPM), or take a stochastic sampler"
            )
        if self.batch is not None and self.batch < 1:
            raise ArgumentError(f"batch={self.batch}; it is the number of rows for one call of the network, at least 1")
        if self.preview is None:
            object.__setattr__(self, "preview", self.decode)

    @property
    def biased(self) -> bool:
        """Whether the proposal leaves its weights out, so that the samples follow no declared target."""
        return not getattr(self.proposal, "weighted", True)

    @property
    def size(self) -> int:
        """The number of coordinates of a latent."""
        return int(np.prod(self.shape))

    def join(self, others: Sequence[Any]) -> DiffusionSampler:
        """One model of several problems in one batch: samplers that differ in nothing but their denoiser."""
        for other in others:
            if not isinstance(other, DiffusionSampler) or replace(other, denoiser=self.denoiser) != self:
                raise ArgumentError("problems run in one batch only if their samplers differ in the denoiser alone")
        return replace(self, others=(*self.others, *(other.denoiser for other in others)))

    def init(self, n: int, rng: Rng) -> Latents:
        """`n` latents at the noisiest level, the same number for each problem."""
        count = 1 + len(self.others)
        if n % count:
            raise ArgumentError(f"{n} particles for {count} problems; give each the same number")
        std, log_z = start_of(self.denoiser, self.schedule.start, self.size)
        x, ratio = self.proposal.start(std, self._normal(n, rng))
        return Latents(
            sampler=self,
            t=0,
            x=x,
            group=np.repeat(np.arange(count), n // count),
            alive=np.ones(n, dtype=np.bool_),
            owed=log_z + ratio.cpu().numpy(),
            since=np.zeros(n),
            memory=Memory(n),
        )

    def step(self, t: int, state: Latents, rng: Rng) -> tuple[Latents, LogW]:
        """Move every latent to the next level.

        The increment, in nats, is the log-ratio of kernel and proposal, and the Feynman-Kac corrector of a composition.
        """
        return self.advance(state, rng)

    def replay(self, t: int, state: Latents, rng: Rng, reference: Path) -> tuple[Latents, LogW]:
        """Like `step`, except that row 0 goes from latent to latent of `reference`.

        Its increment is that of these latents under the proposal as it is here: a proposal, or a guess, may depend on
        the whole population, and conditional SMC is then exact all the same. Raises ArgumentError for the path of
        another sampler, and for a proposal that cannot weigh a given latent.
        """
        self._check(reference)
        if state.t == 0:
            state = self.pinned(state, reference)
        return self.advance(state, rng, reference)

    def trace(self, state: Latents, row: int) -> Path:
        """The path of a `row`. Raises ArgumentError if it was not kept (see `Latents.record`)."""
        if state.past is None:
            raise ArgumentError("the paths of these particles were not kept; call state.record() before the first step")
        return state.past.path(row)

    def advance(self, state: Latents, rng: Rng, reference: Path | None = None) -> tuple[Latents, LogW]:
        """One step, of which row 0 is given by `reference`, if there is one."""
        if state.t == len(self.schedule):
            return state, np.zeros(len(state))
        transition, prediction = self.schedule.transitions[state.t], state.prediction
        mean = transition.mean(prediction.x0hat, prediction.epshat)
        if transition.std > 0.0:
            x, log_w = self.proposal.move(state, transition, mean, self._normal(len(state), rng))
        else:  # nothing to draw, hence nothing to propose
            x, log_w = mean, mean.new_zeros(len(mean), dtype=torch.float64)
        if reference is not None:
            x = with_row_0(x, reference.latents[state.t + 1])
            log_w = self._weighed_again(state, transition, mean, x, log_w)
        log_w = log_w + corrector(self.denoiser, prediction.rate, transition, self.size)
        inc = np.where(state.alive, log_w.cpu().numpy() + state.owed, 0.0)
        owed, since = np.zeros(len(state)), state.since + inc
        past = state.past and state.past.grown(x)
        return replace(state, t=state.t + 1, x=x, owed=owed, since=since, leaves={}, past=past), inc

    def pinned(self, state: Latents, reference: Path) -> Latents:
        """The particles before the first step, with row 0 where `reference` starts; their paths are kept."""
        std, log_z = start_of(self.denoiser, self.schedule.start, self.size)
        x, owed = with_row_0(state.x, reference.latents[0]), state.owed.copy()
        owed[0] = log_z + float(self._of_proposal("start_ratio")(std, x)[0])
        return replace(state, x=x, owed=owed, leaves={}, past=Past.begun(x))

    def done(self, state: Latents) -> Mask:
        """(N,) whether the last level is reached, which all rows do together."""
        return np.full(len(state), state.t == len(self.schedule))

    @costs("model")
    def look(self, state: Latents) -> None:
        """Call the network once for the rows alive, and keep what it says among the leaves of `state`."""
        parts = list(self.batches(np.flatnonzero(state.alive)))
        # A graph over all rows is kept only if they are one batch; else the proposal makes one batch at a time again.
        graph = len(parts) == 1 and getattr(self.proposal, "through", None) == "denoiser"
        leaves: dict[str, Tensor] = {}
        for part in parts:
            x = gather(state.x, part).requires_grad_(graph)
            with torch.set_grad_enabled(graph):
                prediction = self.predict(state, part, x)
            state.tape = (x, prediction.estimate) if graph else None
            for name, value in prediction._asdict().items():
                if value is not None and len(part) == len(state):
                    leaves[name] = value.detach().clone()  # a compiled network may write to the same memory again
                elif value is not None:
                    whole = leaves.setdefault(name, value.new_zeros(len(state), *value.shape[1:]))
                    whole[torch.as_tensor(part, device=whole.device)] = value.detach()
        state.leaves.update(leaves)
        self.proposal.look(state)
        state.tape = None

    def predict(self, state: Latents, rows: Rows, x: Tensor) -> Prediction:
        """What the denoiser of each row's problem says about the latents `x` (R, ...) of `rows`."""
        denoisers = (self.denoiser, *self.others)
        if all(each is self.denoiser for each in denoisers):
            return predict(self.denoiser, x, state.level)
        order, said = [], []
        for g in np.unique(state.group[rows]):
            here = np.flatnonzero(state.group[rows] == g)
            order.append(here)
            said.append(predict(denoisers[g], gather(x, here), state.level))
        back = np.argsort(np.concatenate(order))
        columns = zip(*said, strict=True)
        whole = [None if parts[0] is None else gather(torch.cat(parts), back) for parts in columns]
        return Prediction(*whole)  # type: ignore[arg-type]

    def batches(self, rows: Rows) -> Iterator[Rows]:
        """`rows` in parts of at most `batch`."""
        size = self.batch or max(len(rows), 1)
        for first in range(0, len(rows), size):
            yield rows[first : first + size]

    def _normal(self, n: int, rng: Rng) -> Tensor:
        return torch.as_tensor(rng.normal((n, *self.shape))).to(self.device, self.dtype)

    def _weighed_again(self, state: Latents, transition: Transition, mean: Tensor, x: Tensor, log_w: Tensor) -> Tensor:
        """(N,) nats: `log_w` with the ratio of row 0 for the latent that it was given."""
        if transition.std == 0.0:
            return log_w
        return with_row_0(log_w, self._of_proposal("ratio")(state, transition, mean, x)[0])

    def _of_proposal(self, method: str) -> Callable[..., Tensor]:
        found = getattr(self.proposal, method, None)
        if found is None:
            raise ArgumentError(
                f"{type(self.proposal).__name__} cannot weigh a latent that it did not draw, as conditional SMC must; "
                f"give it the method {method} that returns log p/q (see feynkac.models.diffusion.proposals.Replayable)"
            )
        return found

    def _check(self, reference: Path) -> None:
        shapes = {tuple(each.shape) for each in reference.latents}
        if len(reference.latents) != len(self.schedule) + 1 or shapes != {tuple(self.shape)}:
            raise ArgumentError(
                f"a path of {len(reference.latents)} latents of shape {shapes} is none of this sampler, which has "
                f"{len(self.schedule) + 1} of shape {tuple(self.shape)}; take one that its own trace has returned"
            )


def with_row_0(rows: Tensor, given: Tensor) -> Tensor:
    """(N, ...) `rows` with `given` (...) in the first."""
    rows = rows.clone()
    rows[0] = given
    return rows
