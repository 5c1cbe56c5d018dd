"""The samplers of diffusers as noise schedules: noise levels, kernels and x0hat, read off a scheduler's own tables.

Nothing here imports diffusers: a scheduler is known by the name of its class (verified with 0.42.1), and one that keeps
memory of earlier steps is refused by name.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from feynkac.base.errors import ArgumentError, ModelError
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.denoisers import Prediction
from feynkac.models.diffusion.kernel import Transition, ancestral, clean_of, noise_of, renoise
from feynkac.models.diffusion.schedule import NoiseSchedule


def schedule_of(scheduler: Any, eta: float | None = None) -> NoiseSchedule:
    """The chain that `scheduler.step` would run, after `scheduler.set_timesteps`.

    `eta`: the amount of noise for DDIM (default 1), for the ancestral Euler sampler (default 1), and for flow matching,
    where it makes an SDE of the scheduler's ODE. Raises ArgumentError where there would be no noise, and ModelError for
    schedulers that are no one-step Gaussian kernel.
    """
    name = _kind(scheduler)
    if getattr(scheduler, "timesteps", None) is None:
        raise ModelError(f"{name} has no timesteps; call its set_timesteps(steps) first")
    schedule = NoiseSchedule(tuple(_KERNELS[name](scheduler, eta)), float(getattr(scheduler, "init_noise_sigma", 1.0)))
    if not schedule.stochastic:
        how = "as it is" if eta is None else f"with eta={eta:g}"
        raise ArgumentError(f"{name} {how} draws no noise, so that copies of a particle stay identical; set eta=1.0")
    return schedule


def prediction_of(scheduler: Any, output: Tensor, x: Tensor, noise_level: NoiseLevel) -> Prediction:
    """x0hat and epshat (R, ...) that `scheduler.step` makes of the network's `output` on latents `x` at `noise_level`.

    `x` is the latent itself, before `scale_model_input`. Clipping and thresholding are the scheduler's own.
    """
    name, config = _kind(scheduler), scheduler.config
    kind = "flow" if name in _FLOWS else config.prediction_type
    if name == "EulerAncestralDiscreteScheduler" and kind == "v_prediction":
        scale = math.sqrt(noise_level.sigma**2 + 1.0)
        return _follow(x / scale**2 - noise_level.sigma / scale * output, x, noise_level)
    raw = clean_of(output, x, noise_level, kind)
    clipped = _bound(scheduler, raw)
    if name == "DDIMScheduler":  # clipping leaves its epshat as the network meant it
        return Prediction(clipped, noise_of(x, clipped if kind == "sample" else raw, noise_level))
    if name == "LCMScheduler":
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(noise_level.time)
        clipped = out * clipped + skip * x
    return _follow(clipped, x, noise_level)


def _follow(x0hat: Tensor, x: Tensor, noise_level: NoiseLevel) -> Prediction:
    return Prediction(x0hat, noise_of(x, x0hat, noise_level))


def _bound(scheduler: Any, x0hat: Tensor) -> Tensor:
    if getattr(scheduler.config, "thresholding", False):
        return scheduler._threshold_sample(x0hat)
    if getattr(scheduler.config, "clip_sample", False):
        bound = scheduler.config.clip_sample_range
        return x0hat.clamp(-bound, bound)
    return x0hat


def _kind(scheduler: Any) -> str:
    """The name of the known class that `scheduler` is of, or derived from. Raises ModelError for any other."""
    own, name = type(scheduler), type(scheduler).__name__
    known = next((each for each in own.__mro__ if each.__name__ in _KERNELS), None)
    if known is None:
        instead, options = _name_alternative(name, scheduler)
        raise ModelError(
            f"{name} cannot be steered: it draws no noise, or remembers earlier steps, or is unknown. Set "
            f"pipe.scheduler = {instead}.from_config(pipe.scheduler.config){options}. "
            f"Those that can be steered are {', '.join(_KERNELS)}"
        )
    if inspect.unwrap(own.step) is not inspect.unwrap(known.step):
        raise ModelError(
            f"{name} cannot be steered: its own step replaces that of {known.__name__}, so that it is unknown what it "
            "draws from and what it remembers; use the original"
        )
    return known.__name__


def _name_alternative(name: str, scheduler: Any) -> tuple[str, str]:
    """The scheduler to use in place of one that is refused, and what else to set."""
    config = getattr(scheduler, "config", {})
    if "Flow" in name or getattr(config, "use_flow_sigmas", False):
        return "FlowMatchEulerDiscreteScheduler", " and give eta=1.0"
    return ("EulerAncestralDiscreteScheduler" if "Euler" in name else "DDIMScheduler"), ""


def _vp(bar: Any, time: Any) -> NoiseLevel:
    return NoiseLevel(math.sqrt(float(bar)), math.sqrt(1.0 - float(bar)), float(time))


def _ddim(scheduler: Any, eta: float | None) -> list[Transition]:
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    steps = []
    for t in scheduler.timesteps.tolist():
        s = t - stride
        bar = scheduler.alphas_cumprod[s] if s >= 0 else scheduler.final_alpha_cumprod
        steps.append(ancestral(_vp(scheduler.alphas_cumprod[t], t), _vp(bar, s), 1.0 if eta is None else eta))
    return steps


def _ddpm(scheduler: Any, eta: float | None) -> list[Transition]:
    kind = scheduler.config.variance_type
    if kind not in ("fixed_small", "fixed_small_log", "fixed_large"):
        raise ModelError(f"DDPMScheduler with variance_type={kind!r} cannot be steered; use 'fixed_small'")
    if eta not in (None, 1.0):
        raise ArgumentError(f"eta={eta} for DDPMScheduler, whose noise is fixed; use DDIMScheduler")
    steps = []
    for t in scheduler.timesteps.tolist():
        s = int(scheduler.previous_timestep(t))
        bar_t, bar_s = float(scheduler.alphas_cumprod[t]), float(scheduler.alphas_cumprod[s]) if s >= 0 else 1.0
        step = ancestral(_vp(bar_t, t), _vp(bar_s, s))
        std = 0.0 if t == 0 else math.sqrt(1.0 - bar_t / bar_s) if kind == "fixed_large" else step.std
        steps.append(Transition(step.before, step.after, step.c, std))
    return steps


def _lcm(scheduler: Any, eta: float | None) -> list[Transition]:
    times = scheduler.timesteps.tolist()
    noise_levels = [*(_vp(scheduler.alphas_cumprod[t], t) for t in times), NoiseLevel(1.0, 0.0, -1.0)]
    return [renoise(t, s) for t, s in itertools.pairwise(noise_levels)]


def _by_sigmas(
    alpha: Callable[[float], float], kernel: Callable[[Any, NoiseLevel, NoiseLevel, float | None], Transition]
) -> Any:
    def transitions(scheduler: Any, eta: float | None) -> list[Transition]:
        times = [*scheduler.timesteps.tolist(), 0.0]
        sigmas = [float(sigma) for sigma in scheduler.sigmas]
        noise_levels = [NoiseLevel(alpha(sigma), sigma, time) for sigma, time in zip(sigmas, times, strict=True)]
        return [kernel(scheduler, t, s, eta) for t, s in itertools.pairwise(noise_levels)]

    return transitions


def _euler(scheduler: Any, t: NoiseLevel, s: NoiseLevel, eta: float | None) -> Transition:
    return ancestral(t, s, 1.0 if eta is None else eta)


def _flow(scheduler: Any, t: NoiseLevel, s: NoiseLevel, eta: float | None) -> Transition:
    if eta is None and scheduler.config.stochastic_sampling:
        return renoise(t, s)
    return ancestral(t, s, eta or 0.0)


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


_FLOWS = ("FlowMatchEulerDiscreteScheduler", "LTXEulerAncestralRFScheduler")
_KERNELS: dict[str, Callable[[Any, float | None], list[Transition]]] = {
    "DDIMScheduler": _ddim,
    "DDPMScheduler": _ddpm,
    "EulerAncestralDiscreteScheduler": _by_sigmas(lambda sigma: 1.0, _euler),
    "LCMScheduler": _lcm,
    "FlowMatchEulerDiscreteScheduler": _by_sigmas(lambda sigma: 1.0 - sigma, _flow),
    "LTXEulerAncestralRFScheduler": _by_sigmas(lambda sigma: 1.0 - sigma, _ltx),
}
