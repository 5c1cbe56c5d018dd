"""Which scheduler of diffusers to take in place of one that cannot be steered, with the law of the same network.

`from_config` passes on what the new class knows, takes the new class's defaults for whatever was left at the old one's,
and obeys keys that the old class ignored. So the advice is made, compared with what the old one obeys, and put right.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

EULER, DDIM, FLOW = "EulerAncestralDiscreteScheduler", "DDIMScheduler", "FlowMatchEulerDiscreteScheduler"
INSTEAD = {
    # Only schedulers for the same kinds of networks: what others are told and asked is theirs alone.
    **dict.fromkeys(("EulerDiscreteScheduler",), EULER),
    **dict.fromkeys(("FlowMatchHeunDiscreteScheduler",), FLOW),
    **dict.fromkeys(("CogVideoXDPMScheduler",), "CogVideoXDDIMScheduler"),
    **dict.fromkeys(
        (
            "PNDMScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "DPMSolverSDEScheduler",
            "UniPCMultistepScheduler",
            "DEISMultistepScheduler",
            "SASolverScheduler",
            "LMSDiscreteScheduler",
            "HeunDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "RePaintScheduler",
        ),
        DDIM,
    ),
}
NEUTRAL: dict[str, Any] = {
    # What a scheduler does that does not know the key.
    "clip_sample": False,
    "thresholding": False,
    "rescale_betas_zero_snr": False,
    "stochastic_sampling": False,
    "invert_sigmas": False,
    "shift_terminal": None,
    "use_dynamic_shifting": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
LAW = (
    *NEUTRAL,
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "set_alpha_to_one",
    "timestep_spacing",
    "steps_offset",
    "snr_shift_scale",
    "time_shift_type",
    "shift",
)
"""All that decides at which noise levels the network is asked, and what is made of its answers."""


def advise(scheduler: Any, works: Callable[[Any, float | None], bool]) -> str:
    """A sentence that says what to set in place of `scheduler`; empty where nothing takes its place.

    `works` says whether a scheduler can be steered with an eta: what could not is no advice.
    """
    config = getattr(scheduler, "config", {})
    name = next((each.__name__ for each in type(scheduler).__mro__ if each.__name__ in INSTEAD), None)
    if name is None:
        return ""
    instead = FLOW if config.get("use_flow_sigmas", False) else INSTEAD[name]
    cls = getattr(importlib.import_module("diffusers"), instead)
    eta = None if instead in (EULER, DDIM) else 1.0
    options = _correct(scheduler, cls)
    try:
        if not works(cls.from_config(config, **options), eta):
            return ""
    except Exception:  # such as a table of betas that the other class has not
        return ""
    code = "".join(f", {key}={_write(key, value)}" for key, value in options.items())
    given = "" if eta is None else f" and give eta={eta}"
    return f"Set pipe.scheduler = {instead}.from_config(pipe.scheduler.config{code}){given}. "


def _correct(scheduler: Any, instead: type) -> dict[str, Any]:
    """The arguments that `from_config` needs so that the new scheduler obeys what the old one does."""
    known = inspect.signature(instead.__init__).parameters
    left = scheduler.config.get("_use_default_values", ())
    found = {
        key: scheduler.config[key] if key in scheduler.config and key not in left else known[key].default
        for key in LAW
        if key in known
    }
    wanted = {key: _obeyed(scheduler, key, value) for key, value in found.items()}
    return {key: value for key, value in wanted.items() if not _same(value, found[key])}


def _obeyed(scheduler: Any, key: str, default: Any) -> Any:
    """What `scheduler` does about `key`; `default` where it is all the same."""
    config, known = scheduler.config, inspect.signature(type(scheduler).__init__).parameters
    if key in known:
        return config[key]
    if key == "shift":
        return config.get("flow_shift", 1.0)
    if key == "set_alpha_to_one":
        return config.get("final_sigmas_type", "zero") != "sigma_min"
    return NEUTRAL.get(key, default)


def _write(key: str, value: Any) -> str:
    return repr(value) if value is None or isinstance(value, int | float | str) else f"pipe.scheduler.config.{key}"


def _same(one: Any, other: Any) -> bool:
    return one is other or (one is not None and other is not None and bool(one == other))
