"""Noise schedules as values: the noise levels from start to sample, and the kernel between each two."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feynkac.base.arrays import read_array
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list, as_sequence
from feynkac.base.numbers import find_shape, read_count, read_flag, read_positive, read_real
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.kernel import (
    Transition,
    ancestral,
    check_falling,
    check_levels,
    renoise,
    there_and_back,
)
from feynkac.smc.checks import call


@dataclass(frozen=True)
class NoiseSchedule:
    """The chain of a sampler: x_T ~ N(0, start^2 I), then one transition after the other.

    A transition need not begin at the noise level where the last one ended: some schedulers step to one and tell the
    network another. The law is that of the chain as it is run.

    Raises ArgumentError for what are no transitions, and for a start that is not above 0.
    """

    transitions: tuple[Transition, ...]
    start: float
    """Standard deviation of the first latent, which is at the noise level `transitions[0].before`."""
    moved: bool = False
    """Whether moves change the latents where no transition does, as those of a `generator`."""

    def __post_init__(self) -> None:
        steps = as_sequence(self.transitions)
        if not steps or not all(isinstance(each, Transition) for each in steps):
            raise ArgumentError(
                f"NoiseSchedule: transitions is {quote(self.transitions)}; give one Transition at least, as those of "
                "ddpm(50).transitions are"
            )
        object.__setattr__(self, "transitions", tuple(steps))
        start = read_positive("NoiseSchedule: start", self.start, ", the standard deviation of the first latent")
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "moved", read_flag("NoiseSchedule: moved", self.moved))

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
    """`kernel` between each two of the (S + 1) `noise_levels`, the noisiest first. Raises ArgumentError."""
    levels = as_list(noise_levels)
    if levels is None or len(levels) < 2:
        raise ArgumentError(f"chain(noise_levels={quote(noise_levels)}): give two at least, the noisiest first")
    if isinstance(kernel, type) or not callable(kernel):
        raise ArgumentError(f"chain(kernel={quote(kernel)}): give a function of two noise levels, such as ancestral")
    check_levels("chain", *levels)
    for t, s in itertools.pairwise(levels):
        check_falling(t, s)
    steps = [call(kernel, t, s, of=kernel, error=ArgumentError) for t, s in itertools.pairwise(levels)]
    return NoiseSchedule(tuple(steps), start)


def linear_alphas_bar(train_steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> NDArray[np.float64]:
    """(train_steps,) alpha^2 at each time of training, for betas from `first` to `last` (Ho et al. 2020)."""
    return np.cumprod(1.0 - np.linspace(first, last, train_steps), dtype=np.float64)


def vp_noise_levels(steps: int, alphas_bar: ArrayLike | None = None) -> list[NoiseLevel]:
    """(steps + 1) noise levels, evenly spaced over the times of training and ending without noise.

    Raises ArgumentError for more steps than there are times, and for `alphas_bar` that do not fall within 0 and 1.
    """
    bars = linear_alphas_bar() if alphas_bar is None else read_array("alphas_bar", alphas_bar)
    falls = bars.ndim == 1 and len(bars) > 0 and bars[0] > 0.0 and not (np.diff(bars) > 0.0).any()
    if not falls or bars[0] > 1.0 or bars[-1] < 0.0:
        raise ArgumentError(
            f"alphas_bar is {quote(alphas_bar)}; give alpha^2 at each time of training, falling from near 1 to near 0"
        )
    steps = read_count("steps", steps)
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
    """The ancestral Euler sampler on x = x0 + sigma eps, from `sigmas[0]` down; a final 0 is added if it is missing.

    Raises ArgumentError for sigmas that do not fall.
    """
    ends = _fall("euler_ancestral: sigmas", sigmas)
    noise_levels = [NoiseLevel(1.0, sigma, sigma) for sigma in ends]
    return chain(noise_levels, lambda t, s: ancestral(t, s, eta), ends[0])


def karras_sigmas(steps: int, lowest: float = 0.002, highest: float = 80.0, rho: float = 7.0) -> list[float]:
    """(steps,) noise levels from `highest` to `lowest`, even in sigma^(1/rho) (Karras et al. 2022, eq. 5).

    Raises ArgumentError for numbers that cannot be.
    """
    steps, rho = read_count("steps", steps), read_real("rho", rho, 1.0)
    lowest, highest = read_positive("lowest", lowest), read_positive("highest", highest)
    if not lowest <= highest:
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
    lows = _fall("edm: sigmas", sigmas)
    churns = np.broadcast_to(_read_churn(churn, len(lows) - 1), len(lows) - 1).tolist()
    noise_scale, step_scale = read_real("noise_scale", noise_scale, 0.0), read_real("step_scale", step_scale, 0.0)
    raised = [(1.0 + rise) * low for rise, low in zip(churns, lows, strict=False)]
    noises = [noise_scale * math.sqrt(high * high - low * low) for high, low in zip(raised, lows, strict=False)]
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

    Raises ArgumentError for sigmas that do not fall, or are above 1.
    """
    if find_shape(steps) == () and as_list(steps) is None:
        ends = _space(read_count("steps", steps, ", or the sigmas, from 1 down to 0"))
    else:
        ends = _fall("flow: steps", steps)
    if ends[0] > 1.0:
        raise ArgumentError(f"flow: the noisiest sigma is {ends[0]}; that of pure noise is 1")
    noise_levels = [NoiseLevel(1.0 - sigma, sigma, sigma) for sigma in ends]
    return chain(noise_levels, lambda t, s: ancestral(t, s, eta), ends[0])


def revisit(schedule: NoiseSchedule, times: int) -> NoiseSchedule:
    """`schedule` with each noise level visited `times` times: the step is taken, and its noise added again, in between.

    What a step has pulled apart can settle at its level before the next; the network is asked `times` as often. This is
    the resampling of RePaint (Lugmayr et al. 2022), and what recurrent guidance does. The law p that is steered is that
    of the longer chain. A first level of pure noise has nothing that could settle. Raises ArgumentError.
    """
    if not isinstance(schedule, NoiseSchedule):
        raise ArgumentError(f"revisit({quote(schedule)}): give a NoiseSchedule, such as ddpm(50)")
    times = read_count("times", times)
    read_count("revisit: the number of steps", times * len(schedule))
    steps = list[Transition]()
    for step in schedule.transitions:
        inner = times - 1 if step.before.alpha > 0.0 else 0
        steps += [*[there_and_back(step)] * inner, step] if inner else [step]
    return NoiseSchedule(tuple(steps), schedule.start)


def _space(steps: int) -> list[float]:
    return np.linspace(1.0, 0.0, steps + 1).tolist()


def _fall(name: str, sigmas: object) -> list[float]:
    """`sigmas` with a final 0. Raises ArgumentError, by the `name` of the argument, unless each is below the last."""
    given = read_array(name, sigmas, "give standard deviations of the noise, from the noisiest down to 0")
    ends = given if given.ndim != 1 or given[-1:].tolist() == [0.0] else np.append(given, 0.0)
    if ends.ndim != 1 or len(ends) < 2 or not (np.diff(ends) < 0.0).all():
        raise ArgumentError(f"{name} is {quote(sigmas)}; noise levels must fall to 0, as karras_sigmas do")
    return ends.tolist()


def _read_churn(churn: float | Sequence[float], steps: int) -> NDArray[np.float64]:
    """() or (steps,) by how much each step raises the noise."""
    rises = read_array("edm: churn", churn, "give a number of at least 0, or one for each step")
    if rises.shape not in ((), (steps,)) or not bool((rises >= 0.0).all()):
        raise ArgumentError(
            f"edm(churn={quote(churn)}): one number of at least 0, or one for each of the {steps} steps"
        )
    return rises
