"""The kernel is each diffusers scheduler's `step`: same mean, same standard deviation, same x0hat."""

from __future__ import annotations

import inspect
import re
import types

import numpy as np
import pytest
import torch

from feynkac.base.errors import ArgumentError, ModelError
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.kernel import ancestral, clean_of
from feynkac.models.diffusion.schedulers import own_options, prediction_of, schedule_of

diffusers = pytest.importorskip("diffusers", reason="pip install 'feynkac[diffusion]'")

# numpy 2 warns about the way in which diffusers turns its tables into arrays.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning", "ignore:.*sde-dpmsolver:FutureWarning"
)

VP = {"num_train_timesteps": 100, "beta_end": 0.1}
SHAPE = (2, 3, 4, 4)


def ddim(**config):
    return diffusers.DDIMScheduler(**VP, clip_sample=False, **config), {"eta": 0.7}


CLIP = {"clip_sample": True, "clip_sample_range": 0.5}


def dpm(cls="DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++", **config):
    return getattr(diffusers, cls)(**VP, algorithm_type=algorithm_type, solver_order=1, **config), {}


CASES = {
    "ddim": lambda: ddim(),
    "ddim-v": lambda: ddim(prediction_type="v_prediction"),
    "ddim-sample": lambda: ddim(prediction_type="sample"),
    "ddim-sd": lambda: ddim(set_alpha_to_one=False, steps_offset=1),
    "ddim-trailing": lambda: ddim(timestep_spacing="trailing", rescale_betas_zero_snr=False),
    "ddim-clipped": lambda: (diffusers.DDIMScheduler(**VP, **CLIP), {"eta": 1.0}),
    "ddim-clipped-v": lambda: (diffusers.DDIMScheduler(**VP, **CLIP, prediction_type="v_prediction"), {"eta": 0.4}),
    "ddim-clipped-sample": lambda: (diffusers.DDIMScheduler(**VP, **CLIP, prediction_type="sample"), {"eta": 0.4}),
    "ddim-thresholded-sample": lambda: ddim(thresholding=True, prediction_type="sample"),
    "ddim-parallel": lambda: (diffusers.DDIMParallelScheduler(**VP, **CLIP), {"eta": 0.6}),
    "ddim-parallel-sample": lambda: (
        diffusers.DDIMParallelScheduler(**VP, **CLIP, prediction_type="sample"),
        {"eta": 0.6},
    ),
    "ddpm": lambda: (diffusers.DDPMScheduler(**VP), {}),
    "ddpm-clipped-sample": lambda: (diffusers.DDPMScheduler(**VP, **CLIP, prediction_type="sample"), {}),
    "ddpm-large": lambda: (diffusers.DDPMScheduler(**VP, variance_type="fixed_large", clip_sample=False), {}),
    "ddpm-log": lambda: (diffusers.DDPMScheduler(**VP, variance_type="fixed_small_log", thresholding=True), {}),
    "ddpm-parallel": lambda: (diffusers.DDPMParallelScheduler(**VP, variance_type="fixed_large"), {}),
    "ddpm-parallel-v": lambda: (diffusers.DDPMParallelScheduler(**VP, prediction_type="v_prediction"), {}),
    "euler": lambda: (diffusers.EulerAncestralDiscreteScheduler(num_train_timesteps=100), {}),
    "euler-v": lambda: (diffusers.EulerAncestralDiscreteScheduler(prediction_type="v_prediction"), {}),
    "lcm": lambda: (diffusers.LCMScheduler(original_inference_steps=50), {}),
    "lcm-clipped": lambda: (diffusers.LCMScheduler(original_inference_steps=50, **CLIP), {}),
    "tcd": lambda: (diffusers.TCDScheduler(original_inference_steps=50), {}),
    "tcd-eta": lambda: (diffusers.TCDScheduler(original_inference_steps=50, clip_sample=True), {"eta": 0.77}),
    "tcd-v": lambda: (
        diffusers.TCDScheduler(original_inference_steps=50, prediction_type="v_prediction"),
        {"eta": 1.0},
    ),
    "flow": lambda: (diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True, shift=3.0), {}),
    "flow-lcm": lambda: (diffusers.FlowMatchLCMScheduler(shift=3.0), {}),
    "ltx": lambda: (diffusers.LTXEulerAncestralRFScheduler(eta=0.6), {}),
    "dpm": lambda: dpm(),
    "dpm-v-karras": lambda: dpm(prediction_type="v_prediction", use_karras_sigmas=True),
    "dpm-thresholded-sample": lambda: dpm(thresholding=True, prediction_type="sample"),
    "dpm-flow": lambda: dpm(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"),
    "dpm-noise": lambda: dpm(algorithm_type="sde-dpmsolver", final_sigmas_type="sigma_min"),
    "dpm-noise-thresholded": lambda: dpm(
        algorithm_type="sde-dpmsolver", final_sigmas_type="sigma_min", thresholding=True
    ),
    "dpm-single": lambda: dpm("DPMSolverSinglestepScheduler"),
    "consistency": lambda: (diffusers.CMStochasticIterativeScheduler(), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_step_is_the_kernel_with_the_same_noise(case):
    scheduler, options = CASES[case]()
    scheduler.set_timesteps(7)
    schedule = schedule_of(scheduler, **options)
    assert len(schedule) == len(scheduler.timesteps)
    generator = torch.Generator().manual_seed(0)
    for transition, t in zip(schedule.transitions, scheduler.timesteps, strict=True):
        x = torch.randn(SHAPE, generator=generator) * max(transition.before.sigma, 1.0)
        output = torch.randn(SHAPE, generator=generator)
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        theirs = scheduler.step(output, t, x, generator=torch.Generator().manual_seed(1), **options)
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
        said = prediction_of(scheduler, output, x, transition.before)
        ours = transition.mean(said.x0hat, said.epshat) + transition.std * noise
        size = theirs.prev_sample.abs().max().clamp(min=1.0)
        assert (ours - theirs.prev_sample).abs().max() < 1e-6 * size
        x0 = getattr(theirs, "pred_original_sample", getattr(theirs, "denoised", None))
        if x0 is not None:
            assert (said.x0hat - x0).abs().max() < 1e-6 * x0.abs().max().clamp(min=1.0)


def test_flow_matching_gets_an_eta_with_the_flow_s_own_levels():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(5)
    for step in schedule_of(scheduler, eta=0.5).transitions:
        assert abs(step.c**2 + step.std**2 - step.after.sigma**2) < 1e-12
    with pytest.raises(ArgumentError, match="set eta"):
        schedule_of(scheduler)


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
REFUSED = {
    # A scheduler, and what takes its place.
    "dpm": ("DPMSolverMultistepScheduler", {}, "DDIMScheduler"),
    "dpm-sd": ("DPMSolverMultistepScheduler", SD, "DDIMScheduler"),
    "dpm-thresholded": ("DPMSolverMultistepScheduler", {"thresholding": True}, "DDIMScheduler"),
    "dpm-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "DDIMScheduler"),
    "dpm-first": ("DPMSolverMultistepScheduler", {"solver_order": 1}, "DDIMScheduler"),
    "dpm-flow": ("DPMSolverMultistepScheduler", {**FLOW, "flow_shift": 3.0}, "FlowMatchEulerDiscreteScheduler"),
    "dpm-single": ("DPMSolverSinglestepScheduler", {"lower_order_final": True}, "DDIMScheduler"),
    "unipc": ("UniPCMultistepScheduler", {"final_sigmas_type": "sigma_min"}, "DDIMScheduler"),
    "unipc-zero": ("UniPCMultistepScheduler", ZERO_SNR, "DDIMScheduler"),
    "unipc-flow": ("UniPCMultistepScheduler", {**FLOW, "flow_shift": 5.0}, "FlowMatchEulerDiscreteScheduler"),
    "deis": ("DEISMultistepScheduler", SD, "DDIMScheduler"),
    "pndm": ("PNDMScheduler", {}, "DDIMScheduler"),
    "pndm-one": ("PNDMScheduler", {**SD, "set_alpha_to_one": True}, "DDIMScheduler"),
    "lms": ("LMSDiscreteScheduler", {"prediction_type": "v_prediction"}, "DDIMScheduler"),
    "heun": ("HeunDiscreteScheduler", {}, "DDIMScheduler"),
    "heun-clipped": ("HeunDiscreteScheduler", CLIP, "DDIMScheduler"),
    "kdpm2": ("KDPM2AncestralDiscreteScheduler", {"trained_betas": [0.01] * 1000}, "DDIMScheduler"),
    "euler": ("EulerDiscreteScheduler", SD, "EulerAncestralDiscreteScheduler"),
    "euler-zero": ("EulerDiscreteScheduler", ZERO_SNR, "EulerAncestralDiscreteScheduler"),
    "flow-heun": ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, "FlowMatchEulerDiscreteScheduler"),
    "cogvideox": ("CogVideoXDPMScheduler", {"snr_shift_scale": 1.0, **ZERO_SNR}, "CogVideoXDDIMScheduler"),
}
LEFT = {
    # Keys that another scheduler has left in the config, and that the one refused does not obey.
    "nothing": {},
    "clipping": {"clip_sample": True, "clip_sample_range": 0.1, "thresholding": True, "set_alpha_to_one": False},
    "flow": {"shift": 7.0, "invert_sigmas": True, "stochastic_sampling": True, "shift_terminal": 0.5},
}


def follow_advice(error, scheduler):
    """The scheduler that an error advises, made as it says, and the eta to give."""
    code, eta = re.search(r"Set pipe\.scheduler = (.*?\))( and give eta=1\.0)?\. Those", str(error)).groups()
    pipe = types.SimpleNamespace(scheduler=scheduler)
    return eval(code, {**vars(diffusers), "pipe": pipe}), 1.0 if eta else None


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("case", REFUSED)
def test_the_scheduler_that_a_refusal_advises_has_the_same_law(case, left):
    name, config, instead = REFUSED[case]
    cls = getattr(diffusers, name)
    known = inspect.signature(cls.__init__).parameters
    scheduler = cls(**config)
    scheduler.register_to_config(**{key: value for key, value in LEFT[left].items() if key not in known})
    with pytest.raises(ModelError, match=rf"{name} cannot.* = {instead}\.from_config\(pipe\.scheduler\.config") as said:
        schedule_of(scheduler)
    other, eta = follow_advice(said.value, scheduler)
    other.set_timesteps(9)
    schedule = schedule_of(other, eta)
    assert type(other).__name__ == instead and schedule.stochastic
    # Networks are told times: at each time there must be the same noise, and the same must be made of the answer.
    if "Flow" in instead:
        same = diffusers.FlowMatchEulerDiscreteScheduler(shift=config.get("shift", config.get("flow_shift", 1.0)))
        same.set_timesteps(9)
        assert torch.equal(other.sigmas, same.sigmas) and other.timesteps.equal(same.timesteps)
        return
    bars = scheduler.alphas_cumprod.double().numpy().clip(2.0**-24)  # what diffusers itself takes for no signal
    sigmas = ((1.0 - bars) / bars) ** 0.5
    for before in (transition.before for transition in schedule.transitions):
        sigma = np.interp(before.time, np.arange(len(sigmas)), sigmas)
        assert abs(before.sigma / max(before.alpha, 2.0**-12) - sigma) < 1e-3 * sigma
    last = float(scheduler.alphas_cumprod[0]) if not _ends_clean(scheduler) else 1.0
    assert abs(schedule.transitions[-1].after.alpha ** 2 - last) < 1e-6
    assert other.config.prediction_type == scheduler.config.prediction_type
    assert other.config.timestep_spacing == scheduler.config.get("timestep_spacing", other.config.timestep_spacing)
    x, output = 3.0 * torch.randn(SHAPE), 3.0 * torch.randn(SHAPE)
    level = schedule.transitions[4].before
    x0 = prediction_of(other, output, x, level).x0hat
    free = clean_of(output, x, level, other.config.prediction_type) if instead == "DDIMScheduler" else None
    if scheduler.config.get("thresholding") and "thresholding" in known:
        assert float(x0.abs().max()) <= 1.0
    elif "clip_sample" in config:
        assert float(x0.abs().max()) <= 0.5
    elif free is not None:
        assert torch.allclose(x0, free) and float(x0.abs().max()) > 1.0


def _ends_clean(scheduler):
    config, known = scheduler.config, inspect.signature(type(scheduler).__init__).parameters
    if "set_alpha_to_one" in known:
        return config.set_alpha_to_one
    return config.get("final_sigmas_type", "zero") != "sigma_min"


def test_schedulers_of_other_kinds_of_networks_get_no_advice_that_would_change_the_law():
    for name in ("EDMEulerScheduler", "SCMScheduler", "UnCLIPScheduler"):
        with pytest.raises(ModelError, match=rf"{name} cannot be steered.*best_of_n") as said:
            schedule_of(getattr(diffusers, name)())
        assert "from_config" not in str(said.value)


@pytest.mark.parametrize("cls", ["EulerAncestralDiscreteScheduler", "FlowMatchEulerDiscreteScheduler", "TCDScheduler"])
def test_only_schedulers_that_clip_are_clipped(cls):
    clips = diffusers.DDIMScheduler(clip_sample=True, clip_sample_range=0.1, thresholding=True)
    scheduler = getattr(diffusers, cls).from_config(clips.config)
    scheduler.set_timesteps(7)
    transition = schedule_of(scheduler, 1.0).transitions[3]
    x, output = 5.0 * torch.randn(SHAPE), torch.randn(SHAPE)
    kind = "flow" if "Flow" in cls else "epsilon"
    assert torch.equal(
        prediction_of(scheduler, output, x, transition.before).x0hat, clean_of(output, x, transition.before, kind)
    )


# --- zero terminal SNR


@pytest.mark.parametrize("cls", ["DDIMScheduler", "DDIMParallelScheduler"])
@pytest.mark.parametrize("steps", range(2, 61))
def test_zero_terminal_snr_with_full_noise_is_finite_where_the_scheduler_is_not(cls, steps):
    scheduler = getattr(diffusers, cls)(**ZERO_SNR, timestep_spacing="trailing", clip_sample=False)
    scheduler.set_timesteps(steps)
    schedule, own = schedule_of(scheduler, 1.0), own_options(scheduler, 1.0)
    finite = True
    for transition, t in zip(schedule.transitions, scheduler.timesteps, strict=True):
        x, output = torch.randn(1, 1, 2, 2), torch.randn(1, 1, 2, 2)
        theirs = scheduler.step(output, int(t), x, eta=1.0, generator=torch.Generator().manual_seed(1)).prev_sample
        finite &= bool(theirs.isfinite().all())
        noise = torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(1))
        said = prediction_of(scheduler, output, x, transition.before)
        ours = transition.mean(said.x0hat, said.epshat) + transition.std * noise
        assert ours.isfinite().all() and abs(transition.c**2 + transition.std**2 - transition.after.sigma**2) < 1e-9
        if theirs.isfinite().all():
            assert torch.allclose(ours, theirs, atol=2e-3)
    assert (own == {"eta": 1.0}) == finite


@pytest.mark.parametrize("cls", ["DDIMScheduler", "DDPMScheduler"])
def test_a_network_of_epsilon_cannot_start_from_noise_alone(cls):
    scheduler = getattr(diffusers, cls)(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    scheduler.set_timesteps(5)
    with pytest.raises(ModelError, match=rf"{cls} starts from noise alone.*set rescale_betas_zero_snr=False"):
        schedule_of(scheduler)
    other = getattr(diffusers, cls).from_config(scheduler.config, rescale_betas_zero_snr=False)
    other.set_timesteps(5)
    assert schedule_of(other).stochastic


# --- flows that count from noise to sample


@pytest.mark.parametrize("steps", [1, 4])
def test_inverted_sigmas_are_the_same_flow_counted_the_other_way(steps):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True, shift=3.0)
    plain = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    for each in (scheduler, plain):
        each.set_timesteps(steps)
    if steps > 1:
        ours, theirs = schedule_of(scheduler, 1.0).transitions, schedule_of(plain, 1.0).transitions
        for one, other in zip(ours, theirs, strict=True):
            assert np.allclose([one.c, one.std], [other.c, other.std], atol=1e-6)
            assert np.allclose([one.before.sigma, one.after.sigma], [other.before.sigma, other.after.sigma], atol=1e-6)
    # Without noise the kernel's mean is the scheduler's own step.
    for t, s, time in zip(scheduler.sigmas[:-1], scheduler.sigmas[1:], scheduler.timesteps, strict=True):
        x, output = torch.randn(SHAPE), torch.randn(SHAPE)
        before, after = (NoiseLevel(float(each), 1.0 - float(each)) for each in (t, s))
        said = prediction_of(scheduler, output, x, before)
        mean = ancestral(before, after, 0.0).mean(said.x0hat, said.epshat)
        assert torch.allclose(mean, scheduler.step(output, time, x).prev_sample, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: diffusers.FlowMatchLCMScheduler(invert_sigmas=True),
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True, stochastic_sampling=True),
    ],
)
def test_noise_on_inverted_sigmas_is_refused_by_name_with_what_to_take(make):
    scheduler = make()
    scheduler.set_timesteps(4)
    with pytest.raises(ModelError, match=r"invert_sigmas=True.*stochastic_sampling=False, and give eta=1\.0"):
        schedule_of(scheduler)
    other = diffusers.FlowMatchEulerDiscreteScheduler.from_config(scheduler.config, stochastic_sampling=False)
    other.set_timesteps(4)
    assert schedule_of(other, 1.0).stochastic


# --- eta


FIXED = {
    "DDPMScheduler": {},
    "DDPMParallelScheduler": {},
    "LCMScheduler": {"original_inference_steps": 50},
    "FlowMatchLCMScheduler": {},
    "DPMSolverMultistepScheduler": {"algorithm_type": "sde-dpmsolver++", "solver_order": 1},
    "CMStochasticIterativeScheduler": {},
}


@pytest.mark.parametrize("name", FIXED)
def test_an_eta_that_a_scheduler_has_not_is_refused(name):
    scheduler = getattr(diffusers, name)(**FIXED[name])
    scheduler.set_timesteps(4)
    with pytest.raises(ArgumentError, match=rf"eta=0\.5 for {name}, whose noise is fixed"):
        schedule_of(scheduler, eta=0.5)


def test_the_ddim_of_cogvideox_draws_noise_only_if_eta_is_given():
    scheduler = diffusers.CogVideoXDDIMScheduler()
    scheduler.set_timesteps(4)
    with pytest.raises(ArgumentError, match=r"draws no noise.*set eta=1\.0"):
        schedule_of(scheduler)
    assert own_options(scheduler, 1.0) is None
    for transition, t in zip(schedule_of(scheduler, 1.0).transitions, scheduler.timesteps, strict=True):
        x, output = torch.randn(SHAPE), torch.randn(SHAPE)
        said = prediction_of(scheduler, output, x, transition.before)
        mean = ancestral(transition.before, transition.after, 0.0).mean(said.x0hat, said.epshat)
        assert torch.allclose(mean, scheduler.step(output, int(t), x, eta=1.0).prev_sample, atol=1e-5)


def test_a_scheduler_with_a_step_of_its_own_may_remember_anything():
    class Momentum(diffusers.DDIMScheduler):
        last = None

        def step(self, output, t, x, **options):
            mixed, self.last = output if self.last is None else 0.5 * (output + self.last), output
            return super().step(mixed, t, x, **options)

    class Renamed(diffusers.DDIMScheduler):
        """The same step."""

    for cls, refused in ((Momentum, True), (Renamed, False)):
        scheduler = cls()
        scheduler.set_timesteps(5)
        if refused:
            with pytest.raises(ModelError, match=r"Momentum cannot.*replaces that of DDIMScheduler"):
                schedule_of(scheduler)
        else:
            assert schedule_of(scheduler).stochastic


def test_ddim_without_noise_is_refused_with_what_to_set():
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(5)
    with pytest.raises(ArgumentError, match="eta=1"):
        schedule_of(scheduler, eta=0.0)


ONE_STEP = {
    **{name: (options, (None,)) for name, options in FIXED.items()},
    "DDIMScheduler": ({}, (None, 0.0, 1.0)),
    "TCDScheduler": ({}, (None, 1.0)),
    "EulerAncestralDiscreteScheduler": ({}, (None, 1.0)),
    "FlowMatchEulerDiscreteScheduler": ({}, (None, 1.0)),
}


@pytest.mark.parametrize("name", ONE_STEP)
def test_a_single_step_is_not_told_to_set_an_eta_that_would_not_help(name):
    options, etas = ONE_STEP[name]
    for eta in etas:
        scheduler = getattr(diffusers, name)(**options)
        scheduler.set_timesteps(1)
        with pytest.raises(
            ArgumentError, match=r"draws no noise.*one step.*take more steps, or take algorithm"
        ) as said:
            schedule_of(scheduler, eta)
        assert "set eta" not in str(said.value)
        scheduler.set_timesteps(3)
        asked = 1.0 if eta == 0.0 or (eta is None and name == "FlowMatchEulerDiscreteScheduler") else eta
        assert schedule_of(scheduler, asked).stochastic, "more steps do help"


def test_an_advised_eta_draws_noise():
    quiet = diffusers.CMStochasticIterativeScheduler(s_noise=0.0)  # whose noise is fixed, at none
    for scheduler, advised in ((diffusers.FlowMatchEulerDiscreteScheduler(), True), (quiet, False)):
        scheduler.set_timesteps(4)
        with pytest.raises(ArgumentError, match="draws no noise") as said:
            schedule_of(scheduler)
        assert ("set eta=1.0" in str(said.value)) == advised
        if advised:
            assert schedule_of(scheduler, 1.0).stochastic


def test_a_scheduler_without_timesteps_says_what_to_call():
    scheduler = diffusers.EulerAncestralDiscreteScheduler()
    scheduler.timesteps = None
    with pytest.raises(ModelError, match="set_timesteps"):
        schedule_of(scheduler)


def test_sigmas_beyond_those_of_a_flow_are_refused_by_the_scheduler_s_name():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[80.0, 5.0, 1.0])  # as those of Cosmos are
    with pytest.raises(ModelError, match="FlowMatchEulerDiscreteScheduler has a sigma of 80, and flow"):
        schedule_of(scheduler, 1.0)
