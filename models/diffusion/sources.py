"""Where a sampler's predictions come from: denoisers, which answer any question, or whatever else is a `Source`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from feynkac.base.contract import LogW, Rng, Rows
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list
from feynkac.models.diffusion.composition import power_of, start_of
from feynkac.models.diffusion.denoisers import Denoiser, Prediction, Predictor, Recurrent, check_denoiser, predict
from feynkac.models.diffusion.gradients import Pull, pull_back, require_graph
from feynkac.models.diffusion.paths import LatentPath
from feynkac.models.diffusion.proposals import Replayable, keeps_graph
from feynkac.models.diffusion.remembering import prove_forgetful
from feynkac.models.diffusion.state import DENOISER_CARRY
from feynkac.models.diffusion.tree import gather, with_row_0

if TYPE_CHECKING:
    from feynkac.models.diffusion.sampler import DiffusionSampler
    from feynkac.models.diffusion.state import Latents


@runtime_checkable
class Source(Protocol):
    """What a sampler is given to draw from: predictions about its latents, their noise, and maybe a step of its own."""

    @property
    def problems(self) -> int:
        """How many problems run in one batch."""
        ...

    @property
    def power(self) -> float:
        """The sum of the powers of a composition's experts; 1 for anything else."""
        ...

    @property
    def seeds(self) -> Sequence[int] | None:
        """(N,) the seeds of the first latents, for paths to keep; None where the engine's noise draws them."""
        ...

    def draw_first(self, sampler: DiffusionSampler, n: int, rng: Rng) -> tuple[Tensor, LogW]:
        """(n, ...) first latents and their (n,) log p/q, in nats."""
        ...

    def pin_first(self, state: Latents, reference: LatentPath) -> tuple[Tensor, LogW]:
        """What `draw_first` returned for `state`, except that row 0 starts where `reference` does.

        Raises ArgumentError where it cannot.
        """
        ...

    def draw_noise(self, sampler: DiffusionSampler, n: int, rng: Rng) -> Tensor:
        """(n, ...) standard normal noise for one step."""
        ...

    def look(self, state: Latents) -> dict[str, Tensor]:
        """The fields of the `Prediction` for all rows (N, ...) that are alive, and what else the source needs of them.

        Called once for each noise level. It may leave a graph in `state.tape` for a proposal that asks for one.
        """
        ...

    def pulls(self, state: Latents) -> Iterator[tuple[Rows, Pull]] | None:
        """The rows alive, part by part, each with what takes gradients of their estimates back through the network.

        None where that cannot be at this noise level. Raises ModelError where the network gives no gradient.
        """
        ...

    def draw_next(self, state: Latents) -> Tensor | None:
        """(N, ...) the next latents, drawn from the sampler's own kernel by other means; None where there are none."""
        ...

    def follow(self, state: Latents) -> None:
        """Take note of a step that has led to `state`."""
        ...


class Denoisers:
    """The denoisers of one or more problems as a source: row by row, in batches, at any level and any time.

    Raises ArgumentError for what are no denoisers, and for compositions whose powers have different sums.
    """

    seeds = None

    def __init__(self, denoisers: Sequence[Denoiser | Predictor | Recurrent]) -> None:
        listed = as_list(denoisers)
        if not listed:
            raise ArgumentError(f"Denoisers({quote(denoisers)}): give a list of one denoiser at least")
        for each in listed:
            check_denoiser("Denoisers", each)
        self.denoisers = tuple(listed)
        powers = [power_of(each) for each in self.denoisers]
        self.power = powers[0]
        if not np.allclose(powers, self.power, rtol=1e-9, atol=0.0):
            raise ArgumentError(f"compositions run in one batch only if their powers have one sum, not {powers}")

    @property
    def problems(self) -> int:
        """How many problems run in one batch."""
        return len(self.denoisers)

    def draw_first(self, sampler: DiffusionSampler, n: int, rng: Rng) -> tuple[Tensor, LogW]:
        """(n, ...) latents of pure noise, as the proposal draws them, and their (n,) log p/q, in nats."""
        std, log_z = start_of(self.power, sampler.schedule.start, sampler.size)
        x, ratio = sampler.proposal.start(std, self.draw_noise(sampler, n, rng))
        return x, log_z + ratio.cpu().numpy()

    def pin_first(self, state: Latents, reference: LatentPath) -> tuple[Tensor, LogW]:
        """The first latents and their log p/q, with row 0 from `reference`."""
        sampler = state.sampler
        std, log_z = start_of(self.power, sampler.schedule.start, sampler.size)
        x, owed = with_row_0(state.x, reference.latents[0]), state.owed.copy()
        owed[0] = log_z + float(check_replayable(sampler.proposal).start_ratio(std, x)[0])
        return x, owed

    def draw_noise(self, sampler: DiffusionSampler, n: int, rng: Rng) -> Tensor:
        """(n, ...) the engine's noise."""
        return torch.from_numpy(rng.normal((n, *sampler.shape))).to(sampler.device, sampler.dtype)

    def look(self, state: Latents) -> dict[str, Tensor]:
        """Call the networks for the rows alive; rows that died have zeros."""
        parts = list(state.sampler.batches(np.flatnonzero(state.alive)))
        # A graph over all rows is kept only if they are one batch; else the proposal makes one batch at a time again.
        graph = len(parts) == 1 and keeps_graph(state.sampler.proposal)
        leaves: dict[str, Tensor] = {}
        for part in parts:
            x = gather(state.x, part).requires_grad_(graph)
            with torch.set_grad_enabled(graph):
                prediction = self._predict(state, part, x)
            state.tape = (x, prediction.estimate) if graph else None
            for name, value in prediction._asdict().items():
                if value is not None and len(part) == len(state):
                    leaves[name] = value.detach().clone()  # a compiled network may write to the same memory again
                elif value is not None:
                    whole = leaves.setdefault(name, value.new_zeros(len(state), *value.shape[1:]))
                    whole[torch.as_tensor(part, device=whole.device)] = value.detach()
        prove_forgetful(state, leaves["x0hat"], partial(self._ask_again, state), self.denoisers)
        return leaves

    def pulls(self, state: Latents) -> Iterator[tuple[Rows, Pull]]:
        """Batch by batch, so that there is one graph at a time; that of a single batch is there already."""
        for part in state.sampler.batches(np.flatnonzero(state.alive)):
            x, estimate = state.tape or self._make_tape(state, part)
            require_graph(estimate, "the denoiser")
            yield part, partial(pull_back, x, estimate)

    def _make_tape(self, state: Latents, part: Rows) -> tuple[Tensor, Tensor]:
        x = gather(state.x, part).requires_grad_()
        with torch.enable_grad():
            return x, self._predict(state, part, x).estimate

    @torch.no_grad()
    def _ask_again(self, state: Latents, rows: Rows) -> Tensor:
        return self._predict(state, rows, gather(state.x, rows)).x0hat

    def _predict(self, state: Latents, rows: Rows, x: Tensor) -> Prediction:
        """What the denoiser of each row's problem says about the latents `x` (R, ...) of `rows`."""
        first, carry = self.denoisers[0], gather(state.carry.get(DENOISER_CARRY), rows)
        if all(each is first for each in self.denoisers):
            return predict(first, x, carry, state)
        order, said = [], []
        for g in np.unique(state.group[rows]):
            here = np.flatnonzero(state.group[rows] == g)
            order.append(here)
            said.append(predict(self.denoisers[g], gather(x, here), gather(carry, here), state))
        return _join(said, np.argsort(np.concatenate(order)))

    def draw_next(self, state: Latents) -> None:
        """Nothing: the kernel is drawn from as it stands."""

    def follow(self, state: Latents) -> None:
        """Nothing is to be noted."""


def check_replayable(proposal: object) -> Replayable:
    """`proposal`, which can weigh latents that it did not draw. Raises ArgumentError where it cannot."""
    if isinstance(proposal, Replayable):
        return proposal
    raise ArgumentError(
        f"{type(proposal).__name__} cannot weigh a latent that it did not draw, as conditional SMC must; give it the "
        "methods start_ratio and ratio that return log p/q (see feynkac.models.diffusion.proposals.Replayable)"
    )


def _join(said: Sequence[Prediction], rows: Rows) -> Prediction:
    """The predictions of several problems, one after the other, of which `rows` are taken."""
    if any(each.rate is not None for each in said):  # a composition beside a plain denoiser, whose rate is 0
        zero = [each.x0hat.new_zeros(len(each.x0hat), dtype=torch.float64) for each in said]
        rates = [nothing if each.rate is None else each.rate for each, nothing in zip(said, zero, strict=True)]
        said = [each._replace(rate=rate, guess=each.estimate) for each, rate in zip(said, rates, strict=True)]
    kept = next((each.carry for each in said if each.carry is not None), None)
    if kept is not None:  # of a recurrent denoiser beside one that forgets
        said = [each._replace(carry=_fill(each.carry, kept, len(each.x0hat))) for each in said]
    columns = zip(*said, strict=True)
    return Prediction(*(None if parts[0] is None else gather(torch.cat(parts), rows) for parts in columns))  # type: ignore[arg-type]


def _fill(carry: Tensor | None, like: Tensor, rows: int) -> Tensor:
    """What one problem carries, as rows of a batch in which another carries `like`; zeros where it carries nothing."""
    if carry is not None and carry.shape[1:] != like.shape[1:]:
        raise ArgumentError(
            f"denoisers that carry {tuple(carry.shape[1:])} and {tuple(like.shape[1:])} for a latent cannot run in one "
            "batch; steer them one after the other"
        )
    return like.new_zeros(rows, *like.shape[1:]) if carry is None else carry
