"""Where to draw the next latent from. Any shift is allowed: its log-ratio goes into the weight."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from feynkac.base.capabilities import Foresees, has
from feynkac.base.contract import Rows
from feynkac.base.errors import ArgumentError, PotentialError
from feynkac.base.numbers import as_real
from feynkac.base.sampling import NeedsGraph
from feynkac.base.words import is_word
from feynkac.models.diffusion.checks import preview_latents, within_memory
from feynkac.models.diffusion.kernel import Transition
from feynkac.models.diffusion.shifted import Shifted
from feynkac.models.diffusion.state import Latents, View
from feynkac.models.diffusion.tree import gather
from feynkac.smc.checks import name_of


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


class Guided(Shifted):
    """The kernel with its mean shifted along the gradient of what a potential guesses.

    `through`: "denoiser" takes the gradient with respect to the latent, through the network (twisted diffusion
    sampler, Wu et al. 2023, eq. 11): x0hat moves by (sigma^2 / alpha) grad_x log psi. "x0hat" takes it with respect to
    x0hat alone, which needs no backward pass of the network (MPGD, He et al. 2024; FlowChef, Patel et al. 2024): x0hat
    moves by Var[x0 | x] grad_x0hat log psi, the same up to the shape of that covariance. `strength` multiplies the
    shift. `trust` bounds it for each particle: at most that many nats of relative entropy between proposal and kernel
    in one step. Without a bound (None) a strong reward leads particles to where their weights fall apart, which the
    effective sample size does not show; that is for problems that are nearly Gaussian, where it has the least variance.

    The target does not depend on any of this. With `weighted=False` the ratio is left out: that is plain guidance
    (DPS, MPGD; with eta=0, strength and trust=None FlowChef as published), there as a baseline, and biased: the samples
    follow no declared target.
    """

    def __init__(
        self,
        *potentials: Foresees,
        through: Literal["denoiser", "x0hat"] = "x0hat",
        strength: float = 1.0,
        trust: float | None = 1.0,
        weighted: bool = True,
    ) -> None:
        if not potentials:
            raise ArgumentError("Guided() needs at least one potential whose guesses have a gradient")
        for each in potentials:
            if not isinstance(each, Foresees):
                raise ArgumentError(f"Guided({name_of(each)}): give a potential to follow, such as fk.reward(f)")
        if not is_word(through, ("denoiser", "x0hat")):
            raise ArgumentError(f"Guided(through={through!r}): choose 'denoiser' or 'x0hat'")
        if as_real(strength) is None:
            raise ArgumentError(f"Guided(strength={strength!r}): a number, by which the shift is multiplied")
        super().__init__(trust, weighted)
        self.potentials, self.through, self.strength = potentials, through, strength

    def __repr__(self) -> str:
        names = ", ".join(name_of(each) for each in self.potentials)
        return f"Guided({names}, through={self.through!r}{'' if self.weighted else ', weighted=False: biased'})"

    @property
    def needs_graph(self) -> bool:
        """Whether the gradient is taken through the denoiser."""
        return self.through == "denoiser"

    def toward(self, state: Latents, part: Rows) -> Tensor:
        """(R, ...) by how much x0hat of the rows in `part` is to move."""
        return self.strength * self._find_move(state, part)

    def _find_move(self, state: Latents, part: Rows) -> Tensor:
        noise_level = state.noise_level
        if noise_level.alpha == 0.0:
            return torch.zeros_like(gather(state.x, part))  # pure noise: x0hat is the same whatever the latent
        if self.needs_graph:
            x, estimate = self._predict(state, part)
            return noise_level.sigma**2 / noise_level.alpha * self._gradient(state, part, x, estimate)
        estimate = gather(state.prediction.estimate, part).requires_grad_()
        gradient = self._gradient(state, part, estimate, estimate)
        variance = torch.as_tensor(state.estimate_variance()[part]).to(gradient)
        return variance.reshape(-1, *[1] * (gradient.ndim - 1)) * gradient

    def _predict(self, state: Latents, part: Rows) -> tuple[Tensor, Tensor]:
        """(R, ...) the latents of `part` and their estimates, with the graph from one to the other."""
        if state.tape is not None:
            return state.tape
        x = gather(state.x, part).requires_grad_()
        with torch.enable_grad():
            return x, state.sampler.source.predict_again(state, part, x).estimate

    def _gradient(self, state: Latents, part: Rows, leaf: Tensor, estimate: Tensor) -> Tensor:
        """(R, ...) the gradient of the guessed log-weights with respect to `leaf`."""
        with torch.enable_grad():
            view = View(state, part, preview_latents(state, estimate))
            value: Any = sum(potential.log_psi(view) for potential in self.potentials)
            total = value.sum()
        names = ", ".join(name_of(potential) for potential in self.potentials)
        gradient = None
        if value.requires_grad:
            with within_memory("the gradient", len(part)):
                (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)  # a reward's own weights may have one
        if gradient is None:
            raise PotentialError(
                f"'{names}' has no gradient with respect to the sample; compute it from its argument with torch "
                "operations (no numpy, PIL, detach or no_grad on the way, in the decoder neither), or leave Guided out"
            )
        bad = ~torch.isfinite(gradient.flatten(1)).all(1)
        if bool(bad.any()):
            row = int(part[int(torch.nonzero(bad)[0])])
            raise PotentialError(
                f"the gradient of '{names}' at step {state.t} is not finite for row {row}; bound the function's slope"
            )
        return gradient
