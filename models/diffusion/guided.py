"""Proposals that follow the gradient of what a potential guesses: of the sample, or through the network."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from feynkac.base.capabilities import Foresees, offers
from feynkac.base.contract import Rows
from feynkac.base.errors import ArgumentError, ModelError, PotentialError, quote
from feynkac.base.numbers import read_count, read_finite
from feynkac.base.words import is_word
from feynkac.models.diffusion.checks import preview_latents, within_memory
from feynkac.models.diffusion.gradients import Pull
from feynkac.models.diffusion.kernel import TINY, Transition, square_lengths
from feynkac.models.diffusion.shifted import Shifted
from feynkac.models.diffusion.state import Latents, View
from feynkac.models.diffusion.tree import gather
from feynkac.smc.checks import name_of

Spread: TypeAlias = Pull
"""(R, ...) gradients of estimates to (R, ...) moves of them: times the covariance of x0 given x."""


class Guided(Shifted):
    """The kernel times psi of the next latent, to first order: its mean is shifted along what a potential guesses.

    The shift is std^2 times the slope of log psi at the next noise level, where x0hat moves with the latent by
    alpha_s Var[x0 | x_s] / sigma_s^2: exact for a reward without curvature and a normal law. At the last steps that is
    far less than what moving x0hat itself would do, as published guidance does, for the kernel has little noise there.

    `through`: "denoiser" takes the gradient with respect to the latent, through the network (twisted diffusion
    sampler, Wu et al. 2023, eq. 11): x0hat moves by (sigma^2 / alpha) grad_x log psi. "x0hat" takes it with respect to
    x0hat alone, which needs no backward pass of the network (MPGD, He et al. 2024; FlowChef, Patel et al. 2024): x0hat
    moves by Var[x0 | x] grad_x0hat log psi, the same up to the shape of that covariance. `strength` multiplies the
    shift. `inner` takes the move of x0hat in so many steps of strength / `inner`, each along the gradient at the
    estimate that the ones before have led to, and asks the potential as often: one long step overshoots where the
    gradient turns. For steps of full length, as FlowChef and Boltz take them, multiply `strength`, too. `trust` bounds
    the shift for each particle: at most that many nats of relative entropy between proposal and kernel in one step. The
    bound is for rewards of much curvature, which lead particles to where their weights fall apart, and for estimates
    that are wrong; the effective sample size does not show it. None is no bound, for observations and mild rewards.

    Through the network, each step also takes a backward pass of it, and the memory of its graph for as many rows as it
    gets at a time (`batch=`). In a pipeline these are all particles, twice with classifier-free guidance, unless
    `batch=` is fewer: then the network runs twice, and the graph is that of one part. An eighth (U-Net) to a half
    (transformer) of it goes if the network's own weights ask for no gradient: call its requires_grad_(False). The first
    latents of a pipeline are drawn before anybody can ask for their gradient: its first step goes through x0hat.

    The target does not depend on any of this. With `weighted=False` the ratio is left out: that is plain guidance
    (DPS, MPGD; with eta=0, strength and trust=None FlowChef as published), there as a baseline, and biased: the samples
    follow no declared target.
    """

    adapts = True  # by the variance of x0, which the population tells

    def __init__(
        self,
        *potentials: Foresees,
        through: Literal["denoiser", "x0hat"] = "x0hat",
        strength: float = 1.0,
        inner: int = 1,
        trust: float | None = 1.0,
        weighted: bool = True,
    ) -> None:
        if not potentials:
            raise ArgumentError("Guided() needs at least one potential whose guesses have a gradient")
        for each in potentials:
            if not offers(each, Foresees):
                raise ArgumentError(f"Guided({name_of(each)}): give a potential to follow, such as fk.reward(f)")
        if not is_word(through, ("denoiser", "x0hat")):
            raise ArgumentError(f"Guided(through={quote(through)}): choose 'denoiser' or 'x0hat'")
        super().__init__(trust, weighted)
        self.potentials, self.through = potentials, through
        self.strength = read_finite("Guided: strength", strength, ", by which the shift is multiplied")
        self.inner = read_count("Guided: inner", inner, ", the steps in which x0hat is moved")

    def __repr__(self) -> str:
        names = ", ".join(name_of(each) for each in self.potentials)
        inner = "" if self.inner == 1 else f", inner={self.inner}"
        return f"Guided({names}, through={self.through!r}{inner}{'' if self.weighted else ', weighted=False: biased'})"

    @property
    def needs_graph(self) -> bool:
        """Whether the gradient is taken through the denoiser."""
        return self.through == "denoiser"

    def prepare(self, state: Latents) -> None:
        """Keep by how much x0hat is to move, the leaf "toward", and the variance of x0 that way, the leaf "open"."""
        toward = torch.zeros_like(state.x)
        open_ = torch.zeros(len(state), dtype=torch.float64, device=toward.device)
        if state.noise_level.alpha > 0.0:  # of pure noise x0hat is the same whatever the latent
            for part, spread in self._spreads(state):
                rows = torch.as_tensor(part, device=toward.device)
                move, gradient = self._climb(state, part, spread)
                toward[rows], open_[rows] = move.to(toward), _find_variance(move, self.strength * gradient)
        state.leaves |= {"toward": toward, "open": open_}

    def find_shift(self, state: Latents, transition: Transition, mean: Tensor) -> Tensor:
        """(N, ...) by how much the mean is to move, whatever the bound; without weights as far as x0hat moves it."""
        if not self.weighted:
            return super().find_shift(state, transition, mean)
        toward = state.leaves["toward"]
        return transition.reach(state.leaves["open"]).to(toward.dtype).reshape(-1, *[1] * (toward.ndim - 1)) * toward

    def _spreads(self, state: Latents) -> Iterator[tuple[Rows, Spread]]:
        """The rows alive in parts, each with what multiplies a gradient by the covariance of x0 given x."""
        pulls = state.sampler.source.pulls(state) if self.needs_graph else None
        if pulls is not None:
            level = state.noise_level
            for part, pull in pulls:
                yield part, partial(_pull_by, level.sigma**2 / level.alpha, pull)
            return
        variance = torch.as_tensor(state.estimate_variance(), device=state.x.device)
        for part in state.sampler.batches(np.flatnonzero(state.alive)):
            yield part, partial(_scale_by, gather(variance, part))

    def _climb(self, state: Latents, part: Rows, spread: Spread) -> tuple[Tensor, Tensor]:
        """(R, ...) by how much x0hat of the rows in `part` is to move, and (R, ...) the mean gradient on the way."""
        estimate = gather(state.prediction.estimate, part)
        move, mean = torch.zeros_like(estimate), torch.zeros_like(estimate)
        for k in range(self.inner):
            # What is guessed of other estimates than that of the latents is none of their guesses.
            gradient = self._find_gradient(state if k == 0 else state.aside(), part, estimate + move)
            move = move + self.strength / self.inner * spread(gradient, k + 1 < self.inner)
            mean = mean + gradient / self.inner
        bad = ~torch.isfinite(move.flatten(1)).all(1)
        if bool(bad.any()):
            row = int(part[int(torch.nonzero(bad)[0])])
            raise ModelError(
                f"the gradient through the network at step {state.t} is not finite for row {row}; run the network in "
                "float32 or bfloat16, or take Guided(..., through='x0hat')"
            )
        return move, mean

    def _find_gradient(self, state: Latents, part: Rows, estimate: Tensor) -> Tensor:
        """(R, ...) the gradient of the guessed log-weights with respect to the `estimate` of the rows in `part`."""
        parts = state.sampler.batches(np.arange(len(part)))
        return torch.cat([self._find_part(state, part[here], gather(estimate, here)) for here in parts])

    def _find_part(self, state: Latents, part: Rows, estimate: Tensor) -> Tensor:
        estimate = estimate.requires_grad_()
        with torch.enable_grad():
            view = View(state, part, preview_latents(state, estimate), estimate)
            value: Any = sum(potential.log_psi(view) for potential in self.potentials)
            total = value.sum()
        names = ", ".join(name_of(potential) for potential in self.potentials)
        gradient = None
        if value.requires_grad:
            with within_memory("the gradient", len(part)):
                (gradient,) = torch.autograd.grad(total, estimate, allow_unused=True)  # a reward's weights may have one
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


def _pull_by(factor: float, pull: Pull, gradient: Tensor, again: bool) -> Tensor:
    return factor * pull(gradient, again)


def _scale_by(variance: Tensor, gradient: Tensor, again: bool) -> Tensor:
    return variance.to(gradient).reshape(-1, *[1] * (gradient.ndim - 1)) * gradient


def _find_variance(move: Tensor, gradient: Tensor) -> Tensor:
    """(R,) float64: the variance of x0 given x along `move` (R, ...), which is its covariance times `gradient`."""
    flat = move.flatten(1).double()
    size = flat.abs().amax(1).clamp(min=TINY)  # the square of a wild move would overflow
    unit = flat / size[:, None]
    along = (unit * gradient.flatten(1).double()).sum(1)
    return size * square_lengths(unit) / torch.where(along > 0.0, along, torch.inf)
