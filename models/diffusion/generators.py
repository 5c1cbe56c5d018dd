"""Generators x = G(z), z ~ N(0, I): GANs and decoders as samplers whose latents move under the target alone.

Nothing is denoised: the steps of the sampler are those of a target that comes in gradually, as `tempered` says, and
between them a move walks through the latents. That is an SMC sampler (Del Moral, Doucet, Jasra 2006): its evidence is
unbiased, and its particles are the posterior of z. To invert an image, the potential is `observed(...)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feynkac.base.capabilities import Foresees, offers
from feynkac.base.contract import LogW, Mask, Rng, Rows
from feynkac.base.errors import ArgumentError, PotentialError, quote
from feynkac.base.numbers import as_real, read_count
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.checks import preview_latents, within_memory
from feynkac.models.diffusion.denoisers import Prediction
from feynkac.models.diffusion.kernel import Transition, square_lengths
from feynkac.models.diffusion.sampler import DiffusionSampler
from feynkac.models.diffusion.schedule import NoiseSchedule
from feynkac.models.diffusion.state import Latents, View
from feynkac.models.diffusion.tree import gather
from feynkac.smc.checks import name_of

_CLEAN = NoiseLevel(1.0, 0.0)


class _Clean:
    """The denoiser of latents without noise."""

    def predict(self, x: Tensor, t: NoiseLevel, /) -> Prediction:
        return Prediction(x, torch.zeros_like(x))


def generator(
    decode: Callable[[Tensor], Tensor], shape: tuple[int, ...], steps: int, **options: Any
) -> DiffusionSampler:
    """Samples G(z) of a generator, z ~ N(0, I), as a model: latents stay where they were drawn until a move moves them.

    `decode`: latents (R, *shape) to samples (R, ...). `steps`: how many the target has to come in. Give it a potential
    that `tempered` brings in, and moves, `fk.steer(model, path, moves=fk.rejuvenate(Langevin(path)))`; without moves
    the copies of a particle stay identical. `options` are those of `DiffusionSampler`, but for a proposal.

    Raises ArgumentError for a number of steps that is none, and for a proposal, which has nothing to draw.
    """
    if isinstance(decode, type) or not callable(decode):
        raise ArgumentError(f"generator({quote(decode)}): give a function of latents (R, *shape), such as the network")
    if "proposal" in options:
        raise ArgumentError("generator(proposal=): its latents are drawn once; give steer moves=, such as Langevin")
    stay = Transition(_CLEAN, _CLEAN, 0.0, 0.0)
    still = NoiseSchedule((stay,) * read_count("steps", steps), 1.0, moved=True)
    return DiffusionSampler(_Clean(), still, shape, decode=decode, **options)


@dataclass(frozen=True)
class Point:
    """R latents, with what is known of the target there."""

    x: Tensor
    """(R, ...) the latents."""
    nats: Tensor
    """(R,) float64: log psi, what the potential foresees of them."""
    gradient: Tensor
    """(R, ...) that of log psi."""

    def drift(self, step: float) -> Tensor:
        """(R, ...) the mean of what is proposed from here."""
        keep = math.sqrt(1.0 - step**2)
        return keep * self.x + (1.0 - keep) * self.gradient

    def replaced(self, other: Point, taken: Tensor) -> Point:
        """`other` where `taken` (R,) is True, else this."""
        wide = taken.reshape(-1, *[1] * (self.x.ndim - 1))
        parts = ((other.x, self.x, wide), (other.nats, self.nats, taken), (other.gradient, self.gradient, wide))
        return Point(*(torch.where(where, new, old) for new, old, where in parts))


def log_odds(at: Point, there: Point, step: float) -> Tensor:
    """(R,) float64 nats: log pi(z') q(z | z') - log pi(z) q(z' | z), for pi(z) = N(z; 0, I) psi(z)."""
    target = there.nats - at.nats - 0.5 * (square_lengths(there.x) - square_lengths(at.x))
    back, forth = square_lengths(at.x - there.drift(step)), square_lengths(there.x - at.drift(step))
    return target + (forth - back) / (2.0 * step**2)


class Langevin:
    """A move of latents that are N(0, I) a priori, along the gradient of what a potential foresees of G(z).

    The preconditioned Crank-Nicolson-Langevin proposal with the prior's covariance (Cotter, Roberts, Stuart, White
    2013, "MCMC methods for functions", section 4.3): z' = a z + (1 - a) grad log psi(z) + step xi, a^2 = 1 - step^2,
    which without a potential leaves the prior as it is, taken by the rule of Metropolis and Hastings. It leaves the
    target so far invariant, so that evidence and weights are as unbiased as without it.

    `potential`: all that `steer` is given, or the levels would not be those of the target. `step`: the standard
    deviation of the fresh noise, above 0 and at most 1, or a function of the step of the run; about that of the
    posterior. `repeats`: how many such moves one call makes, each with one pass of the generator forward and one back;
    one more pass is for where it begins.

    Raises ArgumentError for what is no potential, and for numbers that cannot be.
    """

    def __init__(self, potential: Foresees, step: float | Callable[[int], float] = 0.3, repeats: int = 1) -> None:
        self.name = f"Langevin({name_of(potential)})"
        if not offers(potential, Foresees):
            raise ArgumentError(f"{self.name}: give the potential that steer is given, whose guesses have a gradient")
        self.potential, self.step, self.repeats = potential, step, read_count("repeats", repeats)
        if not callable(step):
            self.step = self._read_step(step)

    def __call__(self, t: int, state: Latents, level: LogW, alive: Mask, rng: Rng) -> tuple[Latents, LogW]:
        """The moved latents and their levels, in nats. Raises ArgumentError for latents of another sampler."""
        if not isinstance(state, Latents) or not state.sampler.schedule.moved:
            raise ArgumentError(
                f"{self.name} moves the latents of generator(...); those of a sampler have their kernel"
            )
        step, rows = self._read_step(self.step(t) if callable(self.step) else self.step), np.flatnonzero(alive)
        if not len(rows):
            return state, level
        state.look()
        at = self._look(state, rows, gather(state.x, rows))
        self._check_level(at, level[rows])
        for _ in range(self.repeats):
            at = self._walk(state, rows, at, step, rng)
        x, new, index = state.x.clone(), level.copy(), torch.as_tensor(rows, device=state.x.device)
        x[index], new[rows] = at.x, at.nats.cpu().numpy()
        # The weight stays, and another level is in it now: what tempering takes off is still the old one.
        return replace(state, x=x, leaves={}, since=state.since + level - new), new

    def _walk(self, state: Latents, rows: Rows, at: Point, step: float, rng: Rng) -> Point:
        """Where the `rows` are after one move."""
        noise = torch.from_numpy(rng.normal((len(state), *state.sampler.shape))).to(at.x)
        there = self._look(state, rows, at.drift(step) + step * gather(noise, rows))
        odds = log_odds(at, there, step).clamp(max=0.0).exp().cpu().numpy()
        taken = [bool(u < each) for u, each in zip(rng.uniform(len(state))[rows], odds, strict=True)]
        return at.replaced(there, torch.tensor(taken, device=at.x.device))

    def _look(self, state: Latents, rows: Rows, x: Tensor) -> Point:
        parts = [self._look_at_part(state, part, x) for part in self._split(state, rows)]
        return Point(x, *(torch.cat(each) for each in zip(*parts, strict=True)))

    def _split(self, state: Latents, rows: Rows) -> list[tuple[Rows, slice]]:
        parts, first = list[tuple[Rows, slice]](), 0
        for part in state.sampler.batches(rows):
            parts.append((part, slice(first, first + len(part))))
            first += len(part)
        return parts

    def _look_at_part(self, state: Latents, part: tuple[Rows, slice], x: Tensor) -> tuple[Tensor, Tensor]:
        """(R,) float64 log psi, and (R, ...) its gradient."""
        rows, here = part
        leaf = x[here].detach().requires_grad_()
        with torch.enable_grad(), within_memory("the gradient", len(rows)):
            nats = self.potential.log_psi(View(state, rows, preview_latents(state, leaf), leaf))
            gradient = torch.autograd.grad(nats.sum(), leaf, allow_unused=True)[0] if nats.requires_grad else None
        if gradient is None:
            raise PotentialError(
                f"'{self.name}' has no gradient with respect to the latents; compute the potential and the decoder "
                "from their arguments, with torch operations"
            )
        return nats.detach().double(), torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)

    def _check_level(self, at: Point, level: LogW) -> None:
        found = at.nats.cpu().numpy()
        off = np.abs(found - level) > 1e-3 * (1.0 + np.abs(level))
        if off.any():
            raise ArgumentError(
                f"{self.name} foresees {found[off][0]:.4g} nats where the level of the run is {level[off][0]:.4g}; "
                "give it all potentials that steer is given, as one product, each asked after every step"
            )

    def _read_step(self, value: Any) -> float:
        step = as_real(value)
        if step is None or not 0.0 < step <= 1.0:
            raise ArgumentError(f"{self.name}: step is {quote(value)}; a standard deviation above 0 and at most 1")
        return step
