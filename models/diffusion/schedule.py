"""Noise schedules as values: the noise levels from start to sample, and the kernel between each two."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_real, read_whole
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.kernel import Transition, ancestral, renoise, there_and_back


@dataclass(frozen=True)
class NoiseSchedule:
    """The chain of a sampler: x_T ~ N(0, start^2 I), then one transition after the other.

    A transition need not begin at the noise level where the last one ended: some schedulers step to one and tell the
    network another. The law is that of the chain as it is run.
    """

    transitions: tuple[Transition, ...]
    start: float
    """Standard deviation of the first latent, which is at the noise level `transitions[0].before`."""
    moved: bool = False
    """Whether moves change the latents where no transition does, as those of a `generator`."""

    def __post_init__(self) -> None:
        if not self.transitions:
            raise ArgumentError("a noise schedule needs at least one transition")

    def __len__(self) -> int:
        return len(self.transitions)

    @cached_property
    def stochastic(self) -> bool:
        """Whether any transition draws noise: without, copies of a particle would stay identical for ever."""
        return any(step.std > 0.0 for step in self.transitions)

    def advise_noise(self) -> str:
        """What makes a schedule without noise draw some: no eta does where a single step leads straight to the end."""
        if len(self) == 1:
            return "its one step leads straight to the sample: take more steps"
        return "set eta > 0 (eta=1 adds as much noise as DDPM), take a stochastic sampler"


def chain(
    noise_levels: Sequence[NoiseLevel], kernel: Callable[[NoiseLevel, NoiseLevel], Transition], start: float
) -> NoiseSchedule:
    """`kernel` between each two of the (S + 1) `noise_levels`, the noisiest first."""
    return NoiseSchedule(tuple(kernel(t, s) for t, s in itertools.pairwise(noise_levels)), start)


def linear_alphas_bar(train_steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> NDArray[np.float64]:
    """(train_steps,) alpha^2 at each time of training, for betas from `first` to `last` (Ho et al. 2020)."""
    return np.cumprod(1.0 - np.linspace(first, last, train_steps), dtype=np.float64)


def vp_noise_levels(steps: int, alphas_bar: ArrayLike | None = None) -> list[NoiseLevel]:
    """(steps + 1) noise levels, evenly spaced over the times of training and ending without noise."""
    bars = linear_alphas_bar() if alphas_bar is None else np.asarray(alphas_bar, dtype=np.float64)
    steps = read_whole("steps", steps, 1)
    if steps > len(bars):
        raise ArgumentError(f"{steps} steps; between 1 and the {len(bars)} of training")
    times = np.linspace(len(bars) - 1, -1, steps + 1).round().astype(int)[:-1]
    return [
        *(NoiseLevel(math.sqrt(bars[t]), math.sqrt(1 - bars[t]), float(t)) for t in times),
        NoiseLevel(1.0, 0.0, -1.0),
    ]


def ddpm(steps: int, alphas_bar: ArrayLike | None = None) -> NoiseSchedule:
    """The sampler of Ho et al. (2020) with posterior variance, on `steps` of the times of training."""
    return ddim(steps, 1.0, alphas_bar)


def ddim(steps: int, eta: float = 1.0, alphas_bar: ArrayLike | None = None) -> NoiseSchedule:
    """The sampler of Song, Meng, Ermon (2021); eta=0 draws no noise and cannot be steered."""
    return chain(vp_noise_levels(steps, alphas_bar), lambda t, s: ancestral(t, s, eta), 1.0)


def lcm(steps: int, alphas_bar: ArrayLike | None = None) -> NoiseSchedule:
    """Multistep consistency sampling (Song et al. 2023, Algorithm 1)."""
    return chain(vp_noise_levels(steps, alphas_bar), renoise, 1.0)


def euler_ancestral(sigmas: Sequence[float], eta: float = 1.0) -> NoiseSchedule:
    """The ancestral Euler sampler on x = x0 + sigma eps, from `sigmas[0]` down; a final 0 is added if it is missing."""
    ends = [*sigmas] if sigmas[-1] == 0.0 else [*sigmas, 0.0]
    noise_levels = [NoiseLevel(1.0, float(sigma), float(sigma)) for sigma in ends]
    return chain(noise_levels, lambda t, s: ancestral(t, s, eta), float(ends[0]))


def karras_sigmas(steps: int, lowest: float = 0.002, highest: float = 80.0, rho: float = 7.0) -> list[float]:
    """(steps,) noise levels from `highest` to `lowest`, even in sigma^(1/rho) (Karras et al. 2022, eq. 5)."""
    steps, rho = read_whole("steps", steps, 1), read_real("rho", rho, 1.0)
    if not 0.0 < lowest <= highest < math.inf:
        raise ArgumentError(f"karras_sigmas(lowest={quote(lowest)}, highest={quote(highest)}): 0 < lowest <= highest")
    return (np.linspace(highest ** (1 / rho), lowest ** (1 / rho), steps) ** rho).tolist()


def edm(
    sigmas: Sequence[float], churn: float | Sequence[float] = 0.8, noise_scale: float = 1.0, step_scale: float = 1.0
) -> NoiseSchedule:
    """The stochastic sampler of Karras et al. (2022, Algorithm 2) by Euler steps, on x = x0 + sigma eps.

    A step raises the noise from sigma to (1 + churn) sigma, asks the network there, and follows its ODE down to the
    next of `sigmas`; a final 0 is added if it is missing. The chain is cut where the network is asked: one step is then
    one Gaussian transition, whose noise is that which the next raise adds. `churn`: one number, or one for each step,
    where 0 draws none; the S_churn of the paper is `steps` times it. AlphaFold 3 (Abramson et al. 2024, Algorithm 18)
    and Boltz, in angstroms, multiply the noise by `noise_scale` and the way down by `step_scale`:

        sigmas = karras_sigmas(200, 0.0064, 2560.0)
        edm(sigmas, [0.8 * (sigma > 1.0) for sigma in [*sigmas[1:], 0.0]], noise_scale=1.003, step_scale=1.5)

    Their random turns between the steps are left out: they change nothing where the network turns with its input.
    Raises ArgumentError for sigmas that do not fall, for a churn below 0, and for other numbers that cannot be.
    """
    lows = _fall(sigmas)
    churns = np.broadcast_to(_read_churn(churn, len(lows) - 1), len(lows) - 1).tolist()
    noise_scale, step_scale = read_real("noise_scale", noise_scale, 0.0), read_real("step_scale", step_scale, 0.0)
    raised = [(1.0 + rise) * low for rise, low in zip(churns, lows, strict=False)]
    noises = [noise_scale * math.sqrt(high**2 - low**2) for high, low in zip(raised, lows, strict=False)]
    levels = [NoiseLevel(1.0, sigma, sigma) for sigma in [*raised, 0.0]]
    return NoiseSchedule(
        tuple(
            Transition(before, after, before.sigma + step_scale * (low - before.sigma), std)
            for (before, after), low, std in zip(itertools.pairwise(levels), lows[1:], [*noises[1:], 0.0], strict=True)
        ),
        math.hypot(lows[0], noises[0]),
    )


def flow(steps: int | Sequence[float], eta: float = 1.0) -> NoiseSchedule:
    """Flow matching, x = (1 - sigma) x0 + sigma eps, sampled as an SDE with the flow's own marginals.

    `steps`: a number of even steps from sigma = 1, or the sigmas. eta=0 would be the flow's ODE, which cannot be
    steered; every eta has the same marginals as long as x0hat is E[x0 | x] (Albergo et al. 2023, Corollary 18).
    """
    sigmas = [*steps] if isinstance(steps, Sequence | np.ndarray) else _space(read_whole("steps", steps, 1))
    ends = sigmas if sigmas[-1] == 0.0 else [*sigmas, 0.0]
    noise_levels = [NoiseLevel(1.0 - sigma, sigma, sigma) for sigma in ends]
    return chain(noise_levels, lambda t, s: ancestral(t, s, eta), float(ends[0]))


def revisit(schedule: NoiseSchedule, times: int) -> NoiseSchedule:
    """`schedule` with each noise level visited `times` times: the step is taken, and its noise added again, in between.

    What a step has pulled apart can settle at its level before the next; the network is asked `times` as often. This is
    the resampling of RePaint (Lugmayr et al. 2022), and what recurrent guidance does. The law p that is steered is that
    of the longer chain. A first level of pure noise has nothing that could settle.
    """
    times = read_whole("times", times, 1)
    steps = list[Transition]()
    for step in schedule.transitions:
        inner = times - 1 if step.before.alpha > 0.0 else 0
        steps += [*[there_and_back(step)] * inner, step] if inner else [step]
    return NoiseSchedule(tuple(steps), schedule.start)


def _space(steps: int) -> list[float]:
    return np.linspace(1.0, 0.0, steps + 1).tolist()


def _fall(sigmas: Sequence[float]) -> list[float]:
    """`sigmas` with a final 0. Raises ArgumentError unless each is below the one before."""
    ends = [float(sigma) for sigma in sigmas]
    ends = ends if ends and ends[-1] == 0.0 else [*ends, 0.0]
    if len(ends) < 2 or not all(s < t < math.inf for t, s in itertools.pairwise(ends)):
        raise ArgumentError(f"the noise levels {ends} of edm() must fall, from the noisiest to 0; see karras_sigmas")
    return ends


def _read_churn(churn: float | Sequence[float], steps: int) -> NDArray[np.float64]:
    """() or (steps,) by how much each step raises the noise."""
    rises = np.asarray(churn, dtype=np.float64)
    if rises.shape not in ((), (steps,)) or not bool(((rises >= 0.0) & (rises < math.inf)).all()):
        raise ArgumentError(
            f"edm(churn={quote(churn)}): one number of at least 0, or one for each of the {steps} steps"
        )
    return rises
