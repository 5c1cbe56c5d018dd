"""The samplers of diffusers as noise schedules: noise levels, kernels and x0hat, read off a scheduler's own tables.

Nothing here imports diffusers: a scheduler is known by the name of its class (`scheduler_kernels`), and one that keeps
memory of earlier steps is refused by name, with one to take in its place (`scheduler_advice`).
"""

from __future__ import annotations

import inspect
import math
from typing import Any

from torch import Tensor

from feynkac.base.errors import ArgumentError, FeynkacError, ModelError, quote
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.denoisers import Prediction
from feynkac.models.diffusion.kernel import NoStep, Transition, clean_of, noise_of
from feynkac.models.diffusion.schedule import NoiseSchedule
from feynkac.models.diffusion.scheduler_advice import advise
from feynkac.models.diffusion.scheduler_kernels import KERNELS, Kernel, forgets, is_inverted
from feynkac.models.diffusion.scheduler_trial import Tried, draws_from

FEW = 5
"""Steps for which a scheduler is tried."""


def schedule_of(scheduler: Any, eta: float | None = None) -> NoiseSchedule:
    """The chain that `scheduler.step` would run, after `scheduler.set_timesteps`.

    `eta`: the amount of noise for DDIM (default 1), for the ancestral Euler sampler (default 1), for TCD (its gamma,
    default 0.3), and for flow matching and CogVideoX's DDIM, where it makes an SDE of the scheduler's ODE. Raises
    ArgumentError where there would be no noise and for an eta that the scheduler has not, and ModelError for schedulers
    that are no one-step Gaussian kernel or whose first x0hat is infinite.
    """
    name, kernel = _kind(scheduler)
    if getattr(scheduler, "timesteps", None) is None:
        raise ModelError(f"{name} has no timesteps; call its set_timesteps(steps) first")
    transitions = _list_transitions(scheduler, name, kernel, eta)
    schedule = NoiseSchedule(transitions, float(getattr(scheduler, "init_noise_sigma", 1.0)))
    if not schedule.stochastic:
        how = "as it is" if eta is None else f"with eta={eta:g}"
        raise ArgumentError(
            f"{name} {how} draws no noise, so that copies of a particle stay identical; "
            f"{_advise_noise(scheduler, kernel, len(schedule))}take algorithm='best_of_n' or 'importance', which "
            "copy nothing"
        )
    asks_noise = not kernel.flow and getattr(scheduler.config, "prediction_type", None) == "epsilon"
    if asks_noise and not transitions[0].before.alpha > 0.0:
        raise ModelError(
            f"{name} starts from noise alone (rescale_betas_zero_snr=True), of which a network that predicts epsilon "
            "says nothing: x0hat is infinite; set rescale_betas_zero_snr=False, or prediction_type='v_prediction' if "
            "that is what the network was trained for"
        )
    return schedule


def check_times(scheduler: Any) -> None:
    """Raises ArgumentError where `scheduler` would ask its network at times that its own tables do not have."""
    size, times = scheduler.config.get("num_train_timesteps"), getattr(scheduler, "timesteps", None)
    if getattr(scheduler, "alphas_cumprod", None) is None or size is None or times is None or not len(times):
        return
    if float(times.max()) > size - 1:
        name = type(scheduler).__name__
        raise ArgumentError(
            f"{name} would ask its network at time {float(times.max()):g}, beyond the {size} times of training; take "
            f"fewer steps, or set pipe.scheduler = {name}.from_config(pipe.scheduler.config, steps_offset=0)"
        )


def _list_transitions(scheduler: Any, name: str, kernel: Kernel, eta: float | None) -> tuple[Transition, ...]:
    """The chain. Raises ModelError for what the network predicts, and for times, of which no chain is made."""
    kind = scheduler.config.get("prediction_type")
    if not kernel.flow and kind is not None and kind not in kernel.predicts:
        raise ModelError(
            f"{name} has no prediction_type={quote(kind)}; what the network was trained for is one of "
            f"{', '.join(kernel.predicts)}, and flow matching has FlowMatchEulerDiscreteScheduler"
        )
    if kind == "flow_prediction" and not scheduler.config.use_flow_sigmas:
        raise ModelError(
            f"{name} with prediction_type='flow_prediction' has other noise levels than flow matching; set "
            f"pipe.scheduler = {name}.from_config(pipe.scheduler.config, use_flow_sigmas=True)"
        )
    sigmas = getattr(scheduler, "sigmas", None)
    finite = not isinstance(sigmas, Tensor) or bool(sigmas.isfinite().all())
    try:
        found = tuple(kernel.transitions(scheduler, eta)) if finite else ()
    except NoStep:
        found = ()
    except FeynkacError:
        raise
    except (ArithmeticError, ValueError, IndexError):
        found = ()
    numbers = (n for step in found for n in (*_level(step.before), *_level(step.after), step.c, step.std))
    fits = len(found) == len(scheduler.timesteps) and all(map(math.isfinite, numbers))
    if not fits or any(step.before.sigma <= 0.0 for step in found):
        raise ModelError(
            f"the timesteps {_shorten(scheduler.timesteps)} of {name} make no chain from noise to sample: they must "
            "fall, each above the level of the finished sample, which is added at the end"
        )
    return found


def _level(level: NoiseLevel) -> tuple[float, float]:
    return level.alpha, level.sigma


def _shorten(times: Tensor) -> str:
    some = [f"{time:g}" for time in times.tolist()]
    return ", ".join(some if len(some) < 7 else [*some[:3], "...", *some[-3:]])


def _advise_noise(scheduler: Any, kernel: Kernel, steps: int) -> str:
    """What makes `scheduler` draw noise: an eta, only if that does it, or more steps where one leads to the sample."""
    if steps == 1:
        return "its one step leads straight to the sample: take more steps, or "
    try:
        draws = any(step.std > 0.0 for step in kernel.transitions(scheduler, 1.0))
    except FeynkacError:  # its noise is fixed
        draws = False
    return "set eta=1.0, or " if draws else ""


def own_options(scheduler: Any, eta: float | None, tried: Tried | None = None) -> dict[str, Any] | None:
    """The options with which `scheduler.step` draws from the chain of `schedule_of`; None where it does not.

    It does not where eta makes an SDE of an ODE, and where its arithmetic gives nan (with zero terminal SNR): its steps
    are taken once to see that, unless they were `tried`. Raises ModelError where its step is not that of the kernel.
    """
    options, tried = _kind(scheduler)[1].own(scheduler, eta), {} if tried is None else tried
    if options is None or not draws_from(scheduler, schedule_of(scheduler, eta), options, prediction_of, tried):
        return None
    return options


def prediction_of(scheduler: Any, output: Tensor, x: Tensor, noise_level: NoiseLevel) -> Prediction:
    """x0hat and epshat (R, ...) that `scheduler.step` makes of the network's `output` on latents `x` at `noise_level`.

    `x` is the latent itself, before `scale_model_input`. Clipping and thresholding are the scheduler's own.
    """
    name, kernel = _kind(scheduler)
    if kernel.flow:
        return _follow(clean_of(-output if is_inverted(scheduler) else output, x, noise_level, "flow"), x, noise_level)
    if name == "CMStochasticIterativeScheduler":
        skip, out = (float(each) for each in scheduler.get_scalings_for_boundary_condition(noise_level.sigma))
        clean = out * output + skip * x
        return _follow(clean.clamp(-1, 1) if scheduler.config.clip_denoised else clean, x, noise_level)
    kind = scheduler.config.prediction_type.replace("flow_prediction", "flow")
    if name == "EulerAncestralDiscreteScheduler" and kind == "v_prediction":
        scale = math.sqrt(noise_level.sigma**2 + 1.0)
        return _follow(x / scale**2 - noise_level.sigma / scale * output, x, noise_level)
    raw = clean_of(output, x, noise_level, kind)
    bounded = _bound(scheduler, kernel, raw)
    if kernel.keeps_noise:
        return Prediction(bounded, noise_of(x, raw, noise_level))
    if name == "LCMScheduler":
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(noise_level.time)
        bounded = out * bounded + skip * x
    return _follow(bounded, x, noise_level)


def _follow(x0hat: Tensor, x: Tensor, noise_level: NoiseLevel) -> Prediction:
    return Prediction(x0hat, noise_of(x, x0hat, noise_level))


def _bound(scheduler: Any, kernel: Kernel, x0hat: Tensor) -> Tensor:
    if "thresholding" in kernel.bounds and scheduler.config.thresholding:
        return scheduler._threshold_sample(x0hat)
    if "clip_sample" in kernel.bounds and scheduler.config.clip_sample:
        bound = scheduler.config.clip_sample_range
        return x0hat.clamp(-bound, bound)
    return x0hat


def _works(scheduler: Any, eta: float | None) -> bool:
    """Whether `scheduler` can be steered, in a few steps of its own."""
    set_timesteps(scheduler, FEW)
    try:
        own_options(scheduler, eta)
        return schedule_of(scheduler, eta).stochastic
    except FeynkacError:
        return False


def set_timesteps(scheduler: Any, steps: int) -> None:
    """Set `scheduler` to so many steps, as a pipeline does that shifts its levels by the size of a picture."""
    shifts = getattr(scheduler.config, "use_dynamic_shifting", False)
    shifts = shifts and "mu" in inspect.signature(scheduler.set_timesteps).parameters
    scheduler.set_timesteps(steps, **({"mu": 1.0} if shifts else {}))


def _kind(scheduler: Any) -> tuple[str, Kernel]:
    """The known class, by name, that `scheduler` is of, or derived from. Raises ModelError for any other."""
    own, name = type(scheduler), type(scheduler).__name__
    known = next((each for each in own.__mro__ if each.__name__ in KERNELS), None)
    if known is None or (known.__name__.startswith("DPMSolver") and not forgets(scheduler)):
        raise ModelError(
            f"{name} cannot be steered: it draws no noise, or remembers earlier steps, or is unknown. "
            f"{advise(scheduler, _works)}Those that can be steered are {', '.join(KERNELS)} (DPM-Solvers with "
            "solver_order=1 and algorithm_type='sde-dpmsolver++'); with algorithm='best_of_n' or 'importance' any will "
            "do"
        )
    if inspect.unwrap(own.step) is not inspect.unwrap(known.step):
        raise ModelError(
            f"{name} cannot be steered: its own step replaces that of {known.__name__}, so that it is unknown what it "
            "draws from and what it remembers; use the original"
        )
    return known.__name__, KERNELS[known.__name__]
