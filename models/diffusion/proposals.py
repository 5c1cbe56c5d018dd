"""Where to draw the next latent from. Any shift is allowed: its log-ratio goes into the weight."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from feynkac.base.capabilities import has
from feynkac.base.sampling import NeedsGraph
from feynkac.models.diffusion.kernel import Transition
from feynkac.models.diffusion.state import Latents


@runtime_checkable
class Proposal(Protocol):
    """How latents are drawn, with the log-ratio of the kernel and of what was drawn from."""

    def start(self, std: float, noise: Tensor) -> tuple[Tensor, Tensor]:
        """First latents (N, ...) from standard normal `noise`, and (N,) float64 nats log p/q, p = N(0, std^2)."""
        ...

    def prepare(self, state: Latents) -> None:
        """Put what the next `move` needs, one row a particle, among `state.leaves`, which fork with the particles."""
        ...

    def move(self, state: Latents, transition: Transition, mean: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Next latents (N, ...), and (N,) float64 nats log p/q, for the kernel p = N(mean, transition.std^2).

        E_q[exp(log p/q) f(x)] = E_p[f(x)] is all that is asked. It is not called where `std` is 0, unless it is biased
        and the schedule draws no noise at all.
        """
        ...


@runtime_checkable
class Replayable(Proposal, Protocol):
    """A proposal that can also weigh latents that it did not draw, as conditional SMC and particle Gibbs need."""

    def start_ratio(self, std: float, x: Tensor) -> Tensor:
        """(N,) float64 nats log p/q of given first latents `x`: for `x` of `start`, what it returned."""
        ...

    def ratio(self, state: Latents, transition: Transition, mean: Tensor, x: Tensor) -> Tensor:
        """(N,) float64 nats log p/q of given latents `x`: for `x` of `move`, what it returned."""
        ...


class Base:
    """The sampler's own kernel."""

    def start(self, std: float, noise: Tensor) -> tuple[Tensor, Tensor]:
        """std * noise, with ratio 0."""
        return std * noise, noise.new_zeros(len(noise), dtype=torch.float64)

    def prepare(self, state: Latents) -> None:
        """Nothing is needed."""

    def move(self, state: Latents, transition: Transition, mean: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A draw from the kernel, with ratio 0."""
        return mean + transition.std * noise, noise.new_zeros(len(noise), dtype=torch.float64)

    def start_ratio(self, std: float, x: Tensor) -> Tensor:
        """0."""
        return x.new_zeros(len(x), dtype=torch.float64)

    def ratio(self, state: Latents, transition: Transition, mean: Tensor, x: Tensor) -> Tensor:
        """0."""
        return x.new_zeros(len(x), dtype=torch.float64)


BASE = Base()


def keeps_graph(proposal: object) -> bool:
    """Whether `proposal` takes gradients through the denoiser."""
    return has(proposal, NeedsGraph) and proposal.needs_graph
