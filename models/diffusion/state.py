"""The particles of a sampler: latents at one noise level, and all that is known about them there."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feynkac.base.contract import LogW, Mask, Rows
from feynkac.base.errors import ModelError
from feynkac.base.memory import Memory
from feynkac.base.problems import Problem, list_problems
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.calibration import posterior_variance
from feynkac.models.diffusion.checks import decode_latents, preview_latents
from feynkac.models.diffusion.denoisers import Prediction
from feynkac.models.diffusion.paths import Past
from feynkac.models.diffusion.remembering import note_fork
from feynkac.models.diffusion.tree import SHARED, Tree, gather

if TYPE_CHECKING:
    from feynkac.models.diffusion.sampler import DiffusionSampler


DENOISER_CARRY, PROPOSAL_CARRY = "carry", "carry of the proposal"
"""Leaves of a state that are handed on to its next noise level, as its `carry`."""


@dataclass(frozen=True)
class View:
    """What a guess may look at: `R` unfinished rows of a state that has been looked at."""

    state: Latents
    rows: Rows
    """(R,) the rows looked at."""
    estimate: Tensor
    """(R, ...) the clean latents expected, as the preview shows them; with a graph where a gradient is wanted."""
    clean: Tensor
    """(R, ...) the same as latents."""

    @property
    def latent(self) -> Tensor:
        """(R, ...) the latents as they are, with their noise."""
        return gather(self.state.x, self.rows)

    @property
    def noise_level(self) -> NoiseLevel:
        """The noise level of the latents."""
        return self.state.noise_level

    def estimate_variance(self) -> Tensor:
        """(R,) float64: the variance of one coordinate of the sample given the latent, in the units of the sample.

        By how much the preview changes, on average over its coordinates, as those of the clean latents go one standard
        deviation up or down (see `calibration`).
        """
        variance = torch.from_numpy(self.state.estimate_variance()[self.rows]).to(self.clean)
        if not bool((variance > 0.0).any()):  # nothing is open about a generator's latents
            return variance.double()
        signs = _draw_signs(self.state.sampler.shape).to(self.clean)
        away = variance.sqrt().reshape(-1, *[1] * signs.ndim) * signs
        with torch.no_grad():
            shown = self.estimate.detach().double()
            moved = [preview_latents(self.state, self.clean.detach() + step) for step in (away, -away)]
            squares = torch.stack([(x.double() - shown) ** 2 for x in moved])
        return squares.mean(0).flatten(1).mean(1)


@dataclass
class Latents(Tree):
    """N latents on their way from noise to sample. Every field without SHARED is gathered when particles fork.

    `feynkac.models.diffusion.saving` writes it to a file and reads it again; `past` is not written, and `tape` lives
    for one call.
    """

    sampler: DiffusionSampler = field(metadata=SHARED)
    t: int = field(metadata=SHARED)
    """Transitions taken."""
    x: Tensor
    """(N, ...) the latents."""
    group: NDArray[np.int64]
    """(N,) which problem each row belongs to."""
    alive: Mask
    """(N,) rows that have not died."""
    owed: LogW
    """(N,) nats that the next step adds to the weight: what the first draw left."""
    since: LogW
    """(N,) nats of log-weight since the group was last resampled, as far as the sampler and tempering know it."""
    memory: Memory
    """What potentials remember."""
    leaves: dict[Hashable, Any] = field(default_factory=dict)
    """What was computed about the latents at this level: x0hat, epshat, the shift of a proposal, scores, ..."""
    denoised: Tensor | None = None
    """(N, ...) the clean latents expected one step ago; None before the first step."""
    carry: dict[str, Tensor] = field(default_factory=dict)
    """(N, ...) what a denoiser (`DENOISER_CARRY`) and a proposal (`PROPOSAL_CARRY`) left at the last level."""
    past: Past | None = None
    """The paths so far, if they are kept (see `record`)."""
    prompts: tuple[str | None, ...] = field(default=(), metadata=SHARED)
    """The prompt of each problem, where it is a text."""
    tape: tuple[Tensor, Tensor] | None = field(default=None, metadata=SHARED, repr=False)
    """Latents and estimates with their graph, while a gradient through the denoiser is being taken."""

    def __len__(self) -> int:
        return len(self.alive)

    def fork(self, rows: Rows) -> Latents:
        """The population whose row `i` continues from `rows[i]`: every leaf is gathered by the same rows.

        Raises what the sampler's `check_forks` does.
        """
        self.sampler.check_forks()
        child = super().fork(rows)
        moved = rows != np.arange(len(rows))
        if moved.any():
            note_fork(child)
            resampled = np.zeros(child.group.max() + 1, np.bool_)
            resampled[child.group[moved]] = True
            child.since[resampled[child.group]] = 0.0
        return child

    def tell_problems(self, rows: Rows) -> list[Problem]:
        """(R,) which problem each latent belongs to, with its prompt where that is a text."""
        prompts = dict(enumerate(self.prompts))
        return list_problems(self.group[rows], self.memory.problems, lambda g: Problem(g, prompts.get(g)))

    @property
    def laid_up(self) -> tuple[str, ...]:
        """See `feynkac.base.capabilities.LaysUp`."""
        return ("leaves", "tape")

    def retire(self, rows: Rows) -> None:
        """Mark rows as dead: they leave the network's batch."""
        self.alive[rows] = False

    def record(self) -> None:
        """Keep the paths of all particles from now on; said before the first step, for `trace`."""
        self.past = Past.start(self.x, self.sampler.source.seeds)

    @property
    def noise_level(self) -> NoiseLevel:
        """The noise level of the latents."""
        steps = self.sampler.schedule.transitions
        return steps[self.t].before if self.t < len(steps) else steps[-1].after

    def look(self) -> Prediction:
        """What the network says of the latents, called once for each noise level; a guided proposal then guesses."""
        if "x0hat" not in self.leaves:
            self.sampler.look(self)
        return self.prediction

    @property
    def prediction(self) -> Prediction:
        """x0hat and epshat (N, ...) at this noise level; rows that died have zeros. Raises ModelError before `look`."""
        if "x0hat" not in self.leaves:
            raise ModelError(f"nothing is known yet of the latents after {self.t} steps; call the state's look() first")
        return Prediction(*(self.leaves.get(name) for name in Prediction._fields))  # type: ignore[arg-type]

    def estimate_variance(self) -> NDArray[np.float64]:
        """(N,) the variance of x0 given the latent, for one coordinate, estimated for each group of particles.

        Raises ModelError before `look`.
        """
        if "variance" not in self.leaves:
            estimate = self.prediction.estimate
            self.leaves["variance"] = posterior_variance(self.x, estimate, self.noise_level, self.group, self.alive)
        return self.leaves["variance"]

    def aside(self) -> Latents:
        """The same latents for guesses about other estimates than theirs, of which nothing is kept."""
        leaves = {name: leaf for name, leaf in self.leaves.items() if isinstance(name, str)}  # guesses go by potential
        return replace(self, leaves=leaves)

    def views(self, rows: Rows) -> Iterator[View]:
        """What a guess may look at, in batches that the network and the decoder can take; without graphs."""
        estimate = self.look().estimate
        for part in self.sampler.batches(rows):
            clean = gather(estimate, part)
            with torch.no_grad():
                shown = preview_latents(self, clean)
            yield View(self, part, shown, clean)  # outside: a generator's context would leak into its caller

    def outputs(self, rows: Rows) -> Iterator[tuple[Rows, Tensor]]:
        """Finished rows in batches, each with its decoded samples (R, ...); copies of a row are decoded once."""
        originals = self.find_originals(rows)
        for here in self.sampler.batches(np.arange(len(rows))):
            self._decode(np.unique(originals[here]))
            yield rows[here], gather(self.leaves["samples"], originals[here]).to(self.x.device)

    def find_originals(self, rows: Rows) -> Rows:
        """(R,) for each of `rows` the first of them with the same latent and problem."""
        sums = gather(self.x, rows).flatten(1).sum(1, dtype=torch.float64).cpu().numpy()
        found = rows[find_first(self.group[rows], sums)]
        for part in self.sampler.batches(np.flatnonzero(found != rows)):  # a sum alone may be that of another latent
            same = (gather(self.x, found[part]) == gather(self.x, rows[part])).flatten(1).all(1).cpu().numpy()
            found[part[~same]] = rows[part[~same]]
        return found

    def _decode(self, part: Rows) -> None:
        # Each reward asks for them, and at last the result, which has them on the host: so that is where they are kept.
        known = self.leaves.setdefault("decoded", np.zeros(len(self), np.bool_))
        new = part[~known[part]]
        if len(new):
            with torch.no_grad():
                shown = decode_latents(self, gather(self.x, new)).cpu()
            whole = self.leaves.setdefault("samples", shown.new_empty((len(self), *shown.shape[1:])))
            whole[torch.from_numpy(new)] = shown
            known[new] = True

    def recall(self, key: Hashable) -> NDArray[np.float64]:
        """(N,) numbers about the latents at this noise level under `key`, nan where none was computed."""
        return self.leaves.setdefault(key, np.full(len(self), np.nan))

    def samples(self, rows: Rows) -> list[Tensor]:
        """What a result shows for `rows`, on the host: decoded samples, or of unfinished rows the last estimates.

        The network is not called: where nothing is known of this noise level, the estimates are those of one step ago.
        """
        if self.t == len(self.sampler.schedule):
            return [sample for _, part in self.outputs(rows) for sample in part.cpu()]
        if "x0hat" in self.leaves:
            return [sample for view in self.views(rows) for sample in view.estimate.cpu()]
        last = self.x if self.denoised is None else self.denoised
        with torch.no_grad():
            parts = [preview_latents(self, gather(last, part)) for part in self.sampler.batches(rows)]
        return [sample for part in parts for sample in part.cpu()]


def find_first(*keys: NDArray[Any]) -> Rows:
    """(R,) for each of R rows the place of the first of them with the same `keys`, each (R,)."""
    order = np.lexsort(keys)  # which leaves equal rows as they stand
    begins = np.ones(len(order), np.bool_)
    begins[1:] = np.any([key[order[1:]] != key[order[:-1]] for key in keys], axis=0)
    first = np.empty_like(order)
    first[order] = order[begins][begins.cumsum() - 1]
    return first


def _draw_signs(shape: tuple[int, ...]) -> Tensor:
    """+1 and -1 at random places, always the same."""
    return torch.randint(2, shape, generator=torch.Generator().manual_seed(0), device="cpu") * 2.0 - 1.0
