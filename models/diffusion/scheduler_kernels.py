"""The one-step kernels of diffusers' schedulers, read off their tables (verified with 0.42.1). Nothing imports it.

What a step is: the levels and coefficients of each `Transition`, how the network's output becomes x0hat, and whether
the scheduler's own `step` draws from that very kernel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from feynkac.base.errors import ArgumentError, ModelError, quote
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.kernel import Transition, ancestral, renoise


@dataclass(frozen=True)
class Kernel:
    """How a class of schedulers steps."""

    transitions: Callable[[Any, float | None], list[Transition]]
    """The chain of a scheduler with timesteps, for an eta or None."""
    own: Callable[[Any, float | None], dict[str, Any] | None]
    """The options with which its own `step` draws from this chain, rounding aside; None where it does not."""
    bounds: Sequence[str] = ()
    """Which of "thresholding" and "clip_sample" its `step` obeys; a config may hold keys that others left there."""
    flow: bool = False
    """Whether the network predicts a velocity, x = (1 - sigma) x0 + sigma eps."""
    predicts: Sequence[str] = ("epsilon", "v_prediction", "sample")
    """What its networks may predict, by the words of its config."""
    keeps_noise: bool = False
    """Whether epshat stays as the network meant it where x0hat is bounded."""


def _takes_nothing(scheduler: Any, eta: float | None) -> dict[str, Any] | None:
    return {} if eta is None else None


def _refuse_eta(scheduler: Any, eta: float | None, but: float | None = None) -> None:
    if eta is not None and eta != but:
        raise ArgumentError(
            f"eta={eta:g} for {type(scheduler).__name__}, whose noise is fixed; leave eta out, or use DDIMScheduler"
        )


# --- variance preserving: tables of alpha^2, by time


def _vp(bar: Any, time: Any) -> NoiseLevel:
    return NoiseLevel(math.sqrt(float(bar)), math.sqrt(1.0 - float(bar)), float(time))


def _ddim_pairs(scheduler: Any) -> list[tuple[int, int, Any, Any]]:
    """Of each step: its time, the time it leads to, and alpha^2 at both."""
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    bars, last = scheduler.alphas_cumprod, scheduler.final_alpha_cumprod
    return [(t, t - stride, bars[t], bars[t - stride] if t >= stride else last) for t in scheduler.timesteps.tolist()]


def _ddim(scheduler: Any, eta: float | None) -> list[Transition]:
    eta = 1.0 if eta is None else eta
    return [ancestral(_vp(bar_t, t), _vp(bar_s, s), eta) for t, s, bar_t, bar_s in _ddim_pairs(scheduler)]


def _ddim_own(scheduler: Any, eta: float | None) -> dict[str, Any] | None:
    return {"eta": 1.0 if eta is None else eta}


def _ddim_ode(scheduler: Any, eta: float | None) -> list[Transition]:
    return _ddim(scheduler, eta or 0.0)


def _ddpm(scheduler: Any, eta: float | None) -> list[Transition]:
    kind = scheduler.config.variance_type
    if kind not in ("fixed_small", "fixed_small_log", "fixed_large"):
        name = type(scheduler).__name__
        raise ModelError(
            f"{name} with variance_type={quote(kind)} cannot be steered: its network says how much noise is drawn; "
            f"set pipe.scheduler = {name}.from_config(pipe.scheduler.config, variance_type='fixed_small'), or take "
            "algorithm='best_of_n' or 'importance', which copy nothing"
        )
    _refuse_eta(scheduler, eta, but=1.0)
    steps = []
    for t in scheduler.timesteps.tolist():
        s = int(scheduler.previous_timestep(t))
        bar_t, bar_s = float(scheduler.alphas_cumprod[t]), float(scheduler.alphas_cumprod[s]) if s >= 0 else 1.0
        step = ancestral(_vp(bar_t, t), _vp(bar_s, s))
        std = 0.0 if t == 0 else math.sqrt(1.0 - bar_t / bar_s) if kind == "fixed_large" else step.std
        steps.append(Transition(step.before, step.after, step.c, std))
    return steps


def _lcm(scheduler: Any, eta: float | None) -> list[Transition]:
    _refuse_eta(scheduler, eta)
    times = scheduler.timesteps.tolist()
    noise_levels = [*(_vp(scheduler.alphas_cumprod[t], t) for t in times), NoiseLevel(1.0, 0.0, -1.0)]
    return [renoise(t, s) for t, s in itertools.pairwise(noise_levels)]


TCD_ETA = 0.3
"""The gamma that the scheduler itself takes where none is given."""


def _tcd(scheduler: Any, eta: float | None) -> list[Transition]:
    """Down to a level below that of s without noise, and back up with it (Zheng et al. 2024, Algorithm 2)."""
    eta = TCD_ETA if eta is None else eta
    if not 0.0 <= eta <= 1.0:
        raise ArgumentError(f"eta={eta:g} for {type(scheduler).__name__}; its gamma is from 0 to 1")
    bars, steps = [float(bar) for bar in scheduler.alphas_cumprod], []
    for t, s in itertools.pairwise([*scheduler.timesteps.tolist(), 0]):
        low = bars[math.floor((1.0 - eta) * s)]
        last = len(steps) == len(scheduler.timesteps) - 1
        std = 0.0 if last else math.sqrt(max(1.0 - bars[s] / low, 0.0))
        steps.append(Transition(_vp(bars[t], t), _vp(bars[s], s), math.sqrt((1.0 - low) * bars[s] / low), std))
    return steps


# --- by sigmas


def _by_sigmas(
    level: Callable[[Any, float, float], NoiseLevel],
    kernel: Callable[[Any, NoiseLevel, NoiseLevel, float | None], Transition],
) -> Callable[[Any, float | None], list[Transition]]:
    def transitions(scheduler: Any, eta: float | None) -> list[Transition]:
        times, sigmas = [*scheduler.timesteps.tolist(), 0.0], [float(sigma) for sigma in scheduler.sigmas]
        levels = [level(scheduler, sigma, time) for sigma, time in zip(sigmas, times, strict=False)]
        return [kernel(scheduler, t, s, eta) for t, s in itertools.pairwise(levels)]

    return transitions


def _plain_level(scheduler: Any, sigma: float, time: float) -> NoiseLevel:
    return NoiseLevel(1.0, sigma, time)


def _flow_level(scheduler: Any, sigma: float, time: float) -> NoiseLevel:
    if is_inverted(scheduler):  # its sigma is the share of the sample, and the velocity points to it
        return NoiseLevel(sigma, 1.0 - sigma, time)
    if sigma > 1.0:
        raise ModelError(
            f"{type(scheduler).__name__} has a sigma of {sigma:g}, and flow matching has none above 1: it serves "
            "another kind of sampler here; take algorithm='best_of_n' or 'importance', which copy nothing"
        )
    return NoiseLevel(1.0 - sigma, sigma, time)


def is_inverted(scheduler: Any) -> bool:
    """Whether a flow scheduler counts its sigmas from 0, which is noise, to 1."""
    return bool(getattr(scheduler.config, "invert_sigmas", False))


def _euler(scheduler: Any, t: NoiseLevel, s: NoiseLevel, eta: float | None) -> Transition:
    return ancestral(t, s, 1.0 if eta is None else eta)


def _euler_own(scheduler: Any, eta: float | None) -> dict[str, Any] | None:
    implemented = scheduler.config.prediction_type in ("epsilon", "v_prediction")
    return {} if implemented and eta in (None, 1.0) else None


def _flow(scheduler: Any, t: NoiseLevel, s: NoiseLevel, eta: float | None) -> Transition:
    if eta is None and scheduler.config.stochastic_sampling:
        return _flow_renoise(scheduler, t, s, eta)
    return ancestral(t, s, eta or 0.0)


def _flow_renoise(scheduler: Any, t: NoiseLevel, s: NoiseLevel, eta: float | None) -> Transition:
    name = type(scheduler).__name__
    if is_inverted(scheduler):
        raise ModelError(
            f"{name} draws noise as if its sigmas were not inverted (invert_sigmas=True), so that no step leads to a "
            "sample; use FlowMatchEulerDiscreteScheduler with stochastic_sampling=False, and give eta=1.0"
        )
    if getattr(scheduler.config, "scale_factors", None):
        raise ModelError(f"{name} with scale_factors changes the size of its latents and cannot be steered; leave out")
    _refuse_eta(scheduler, eta)
    return renoise(t, s)


def _ltx(scheduler: Any, t: NoiseLevel, s: NoiseLevel, eta: float | None) -> Transition:
    """Its eta shortens the deterministic step instead, to sigma_down, and noise leads back to sigma_s."""
    if float(scheduler.config.s_noise) != 1.0:
        raise ModelError(
            f"LTXEulerAncestralRFScheduler with s_noise={scheduler.config.s_noise}; only 1 keeps its noise levels"
        )
    eta = float(scheduler.config.eta) if eta is None else eta
    down = s.sigma * (1.0 + (s.sigma / t.sigma - 1.0) * eta)
    c = s.alpha * down / (1.0 - down)
    return Transition(t, s, c, math.sqrt(max(s.sigma**2 - c**2, 0.0)))


def _dpm_level(scheduler: Any, sigma: float, time: float) -> NoiseLevel:
    if scheduler.config.use_flow_sigmas:
        return NoiseLevel(1.0 - sigma, sigma, time)
    scale = math.sqrt(sigma**2 + 1.0)
    return NoiseLevel(1.0 / scale, sigma / scale, time)


def _dpm(scheduler: Any, t: NoiseLevel, s: NoiseLevel, eta: float | None) -> Transition:
    """The first order of the SDE solvers (Lu et al. 2022, appendix D): of the two, ++ is DDPM's kernel."""
    _refuse_eta(scheduler, eta)
    if scheduler.config.algorithm_type == "sde-dpmsolver++":
        return ancestral(t, s, 1.0)
    ratio = s.alpha * t.sigma / (t.alpha * s.sigma)  # exp(h)
    return Transition(t, s, s.sigma * (2.0 - ratio), s.sigma * math.sqrt(max(ratio**2 - 1.0, 0.0)))


def forgets(scheduler: Any) -> bool:
    """Whether a DPM-Solver, as it is set, draws noise and has no memory of earlier steps."""
    config = scheduler.config
    learned = getattr(config, "variance_type", None) in ("learned", "learned_range")
    return config.solver_order == 1 and str(config.algorithm_type).startswith("sde") and not learned


def _consistency(scheduler: Any, eta: float | None) -> list[Transition]:
    """Song et al. (2023), Algorithm 1: a clean sample, and noise anew up to the next sigma."""
    _refuse_eta(scheduler, eta)
    config, times = scheduler.config, scheduler.timesteps.tolist()
    sigmas = [float(sigma) for sigma in scheduler.sigmas]
    steps = []
    for k, (t, s) in enumerate(itertools.pairwise([*times, 0.0])):
        high = min(max(sigmas[k + 1], config.sigma_min), config.sigma_max)
        noise = math.sqrt(high**2 - config.sigma_min**2) * float(config.s_noise) if len(times) > 1 else 0.0
        steps.append(Transition(NoiseLevel(1.0, sigmas[k], t), NoiseLevel(1.0, noise, s), 0.0, noise))
    return steps


BOTH = ("thresholding", "clip_sample")
_DDIM = Kernel(_ddim, _ddim_own, BOTH, keeps_noise=True)
_DDPM = Kernel(_ddpm, lambda scheduler, eta: {}, BOTH)
_DPM = Kernel(
    _by_sigmas(_dpm_level, _dpm),
    _takes_nothing,
    ("thresholding",),
    predicts=("epsilon", "v_prediction", "sample", "flow_prediction"),
)
KERNELS = {
    "DDIMScheduler": _DDIM,
    "DDIMParallelScheduler": _DDIM,
    "CogVideoXDDIMScheduler": Kernel(_ddim_ode, lambda scheduler, eta: None),
    "DDPMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "EulerAncestralDiscreteScheduler": Kernel(_by_sigmas(_plain_level, _euler), _euler_own),
    "LCMScheduler": Kernel(_lcm, _takes_nothing, BOTH),
    "TCDScheduler": Kernel(_tcd, lambda scheduler, eta: {"eta": TCD_ETA if eta is None else eta}),
    "FlowMatchEulerDiscreteScheduler": Kernel(_by_sigmas(_flow_level, _flow), _takes_nothing, flow=True),
    "FlowMatchLCMScheduler": Kernel(_by_sigmas(_flow_level, _flow_renoise), _takes_nothing, flow=True),
    "LTXEulerAncestralRFScheduler": Kernel(_by_sigmas(_flow_level, _ltx), _takes_nothing, flow=True),
    "DPMSolverMultistepScheduler": _DPM,
    "DPMSolverSinglestepScheduler": _DPM,
    "CMStochasticIterativeScheduler": Kernel(_consistency, _takes_nothing),
}
