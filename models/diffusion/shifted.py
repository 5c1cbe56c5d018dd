"""The kernel with its mean moved, and the weight of that: what all proposals that follow something have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError
from feynkac.base.numbers import read_flag, read_limit
from feynkac.models.diffusion.kernel import log_ratio, square_lengths

if TYPE_CHECKING:
    from feynkac.base.contract import Rows
    from feynkac.models.diffusion.kernel import Transition
    from feynkac.models.diffusion.state import Latents


class Shifted:
    """A proposal that moves the x0hat of each particle, and with it the mean of the kernel. A subclass gives `toward`,
    or its own `prepare`.

    `trust` bounds the move for each particle: at most that many nats of relative entropy between proposal and kernel in
    one step; None: no bound. `weighted`: whether log p/q goes into the weight. Without it the samples follow no
    declared target, and the steps of a schedule that draws no noise are moved, too. Raises ArgumentError for a bound
    that is none.
    """

    def __init__(self, trust: float | None, weighted: bool) -> None:
        name = type(self).__name__
        self.trust = None if trust is None else read_limit(f"{name}: trust", trust, ", in nats; None is no bound")
        self.weighted = read_flag(f"{name}: weighted", weighted)

    def toward(self, state: Latents, part: Rows) -> Tensor:
        """(R, ...) by how much x0hat of the rows in `part` is to move."""
        raise NotImplementedError

    @property
    def biased(self) -> bool:
        """Whether the ratio is left out."""
        return not self.weighted

    def check_noiseless(self) -> None:
        """Raises ArgumentError unless it can move the steps of a schedule that draws no noise."""
        if self.weighted or self.trust is not None:
            raise ArgumentError(
                f"{self} on a schedule that draws no noise: a moved step has no weight there, and no distance in nats; "
                "give it weighted=False, trust=None for guidance without weights, which is biased"
            )

    def start(self, std: float, noise: Tensor) -> tuple[Tensor, Tensor]:
        """std * noise: the first latent is drawn before anything is known."""
        return std * noise, noise.new_zeros(len(noise), dtype=torch.float64)

    def prepare(self, state: Latents) -> None:
        """Keep by how much x0hat is to move, the leaf "toward"."""
        toward = torch.zeros_like(state.x)
        for part in state.sampler.batches(np.flatnonzero(state.alive)):
            toward[torch.as_tensor(part, device=toward.device)] = self.toward(state, part)
        state.leaves["toward"] = toward

    def move(self, state: Latents, transition: Transition, mean: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A draw around the shifted mean, with log p/q in its stable form."""
        wanted = self.find_shift(state, transition, mean)
        self._note_bound(state, transition, wanted)
        shift = self._bound(wanted, transition)
        x = mean + shift + transition.std * noise
        if torch.finfo(x.dtype).bits < 32:  # x is rounded by more than std may be
            return x, self._weight(noise, shift, transition.std)
        return x, self.ratio(state, transition, mean, x)

    def start_ratio(self, std: float, x: Tensor) -> Tensor:
        """0."""
        return x.new_zeros(len(x), dtype=torch.float64)

    def ratio(self, state: Latents, transition: Transition, mean: Tensor, x: Tensor) -> Tensor:
        """log p/q of latents `x`: bit by bit that of `move`, but in half precision."""
        shift = self._bound(self.find_shift(state, transition, mean), transition)
        return self._weight((x - (mean + shift)) / (transition.std or 1.0), shift, transition.std)

    def _weight(self, noise: Tensor, shift: Tensor, std: float) -> Tensor:
        if not self.weighted:
            return shift.new_zeros(len(shift), dtype=torch.float64)
        return log_ratio(noise, shift, std)

    def find_shift(self, state: Latents, transition: Transition, mean: Tensor) -> Tensor:
        """(N, ...) by how much the mean is to move, whatever the bound: as it does where x0hat is moved."""
        return transition.lever * state.leaves["toward"]

    def _bound(self, shift: Tensor, transition: Transition) -> Tensor:
        if self.trust is None:
            return shift
        bound = torch.sqrt(self.trust / _find_entropy(shift, transition).clamp(min=1e-300)).clamp(max=1.0)
        return shift * bound.to(shift.dtype).reshape(-1, *[1] * (shift.ndim - 1))

    def _note_bound(self, state: Latents, transition: Transition, shift: Tensor) -> None:
        if self.trust is None:
            return
        entropy = _find_entropy(shift, transition)
        name = type(self).__name__
        said = f"the bound trust={self.trust:g} of {name} was active: it moved a particle less far than it would"
        state.memory.note(said, np.flatnonzero((entropy > self.trust).cpu().numpy() & state.alive))


def _find_entropy(shift: Tensor, transition: Transition) -> Tensor:
    """(N,) float64 nats: the relative entropy between the kernel with its mean shifted and the kernel."""
    return square_lengths(shift) / (2.0 * transition.std**2)
