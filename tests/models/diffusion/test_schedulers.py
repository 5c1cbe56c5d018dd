"""The kernel is each diffusers scheduler's `step`: same mean, same standard deviation, same x0hat."""

from __future__ import annotations

import pytest
import torch

from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models.diffusion.schedulers import prediction_of, schedule_of

diffusers = pytest.importorskip("diffusers", reason="pip install 'feynkac[diffusion]'")

# numpy 2 warns about the way in which diffusers turns its tables into arrays.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

VP = {"num_train_timesteps": 100, "beta_end": 0.1}
SHAPE = (2, 3, 4, 4)


def ddim(**config):
    return diffusers.DDIMScheduler(**VP, clip_sample=False, **config), {"eta": 0.7}


CASES = {
    "ddim": lambda: ddim(),
    "ddim-v": lambda: ddim(prediction_type="v_prediction"),
    "ddim-sample": lambda: ddim(prediction_type="sample"),
    "ddim-sd": lambda: ddim(set_alpha_to_one=False, steps_offset=1),
    "ddim-trailing": lambda: ddim(timestep_spacing="trailing", rescale_betas_zero_snr=False),
    "ddim-clipped": lambda: (diffusers.DDIMScheduler(**VP, clip_sample=True, clip_sample_range=0.5), {"eta": 1.0}),
    "ddpm": lambda: (diffusers.DDPMScheduler(**VP), {}),
    "ddpm-large": lambda: (diffusers.DDPMScheduler(**VP, variance_type="fixed_large", clip_sample=False), {}),
    "ddpm-log": lambda: (diffusers.DDPMScheduler(**VP, variance_type="fixed_small_log", thresholding=True), {}),
    "euler": lambda: (diffusers.EulerAncestralDiscreteScheduler(num_train_timesteps=100), {}),
    "euler-v": lambda: (diffusers.EulerAncestralDiscreteScheduler(prediction_type="v_prediction"), {}),
    "lcm": lambda: (diffusers.LCMScheduler(original_inference_steps=50), {}),
    "flow": lambda: (diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True, shift=3.0), {}),
    "ltx": lambda: (diffusers.LTXEulerAncestralRFScheduler(eta=0.6), {}),
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
        if isinstance(scheduler, diffusers.EulerAncestralDiscreteScheduler):
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


REFUSED = {
    "DPMSolverMultistepScheduler": "DDIMScheduler",
    "UniPCMultistepScheduler": "DDIMScheduler",
    "PNDMScheduler": "DDIMScheduler",
    "HeunDiscreteScheduler": "DDIMScheduler",
    "EulerDiscreteScheduler": "EulerAncestralDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler": "FlowMatchEulerDiscreteScheduler",
}


@pytest.mark.parametrize("name", REFUSED)
def test_schedulers_with_memory_or_without_noise_are_refused_by_name_with_one_that_works(name):
    scheduler, instead = getattr(diffusers, name)(), REFUSED[name]
    with pytest.raises(
        ModelError, match=rf"{name} cannot.* = {instead}\.from_config\(pipe\.scheduler\.config\)"
    ) as said:
        schedule_of(scheduler)
    other = getattr(diffusers, instead).from_config(scheduler.config)
    other.set_timesteps(5)
    eta = 1.0 if "give eta=1.0" in str(said.value) else None
    assert (eta == 1.0) == ("Flow" in name) and schedule_of(other, eta).stochastic


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


def test_a_scheduler_without_timesteps_says_what_to_call():
    scheduler = diffusers.EulerAncestralDiscreteScheduler()
    scheduler.timesteps = None
    with pytest.raises(ModelError, match="set_timesteps"):
        schedule_of(scheduler)
