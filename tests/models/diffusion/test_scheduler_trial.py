"""What is found out about a scheduler before a run: whether its own steps can be taken, and are those of the kernel."""

from __future__ import annotations

import re
import types

import pytest
import torch

from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models.diffusion import scheduler_trial
from feynkac.models.diffusion.pipeline_copy import copy_scheduler
from feynkac.models.diffusion.pipeline_opening import rehearse
from feynkac.models.diffusion.schedulers import own_options, prediction_of, schedule_of

diffusers = pytest.importorskip("diffusers", reason="pip install 'feynkac[diffusion]'")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

SMALL = {"num_train_timesteps": 50}
SDE = {"solver_order": 1, "algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "zero"}


def made(name, steps=5, **config):
    scheduler = getattr(diffusers, name)(**config)
    scheduler.set_timesteps(steps)
    return scheduler


def pipe(scheduler):
    return types.SimpleNamespace(scheduler=scheduler)


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DDIMParallelScheduler", "CogVideoXDDIMScheduler", "DDPMScheduler", "PNDMScheduler"]
)
@pytest.mark.parametrize("steps", [50, 25])
def test_times_beyond_those_of_training_are_refused_whatever_the_algorithm(name, steps):
    scheduler = made(name, **SMALL, steps_offset=3)
    with pytest.raises(ArgumentError, match=f"{name} would ask its network at time .*beyond the 50") as said:
        rehearse(pipe(scheduler), steps, None)
    code = re.search(r"set pipe\.scheduler = (.*\))", str(said.value)).group(1)
    other = eval(code, {**vars(diffusers), "pipe": pipe(scheduler)})
    refusal = rehearse(pipe(other), steps, None)
    assert refusal is None or "time" not in str(refusal)


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler", "EulerAncestralDiscreteScheduler"]
)
@pytest.mark.parametrize("kind", ["flow_prediction", "v-prediction", ""])
def test_a_prediction_that_a_scheduler_has_not_is_refused_by_name(name, kind):
    with pytest.raises(ModelError, match=f"{name} has no prediction_type={kind!r}.*epsilon, v_prediction, sample"):
        schedule_of(made(name, prediction_type=kind))


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"])
def test_a_velocity_of_flows_has_the_levels_of_flows(name):
    scheduler = made(name, **SDE, prediction_type="flow_prediction", lower_order_final=True)
    with pytest.raises(ModelError, match="use_flow_sigmas=True") as said:
        schedule_of(scheduler)
    code = re.search(r"set pipe\.scheduler = (.*\))", str(said.value)).group(1)
    other = eval(code, {**vars(diffusers), "pipe": pipe(scheduler)})
    assert rehearse(pipe(other), 5, None) is None


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_times_of_which_no_chain_is_made_are_refused():
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    flow.set_timesteps(sigmas=[1.0, 0.5, 0.0])  # the level of the sample itself is added at the end
    long = diffusers.LTXEulerAncestralRFScheduler()
    long.set_timesteps(sigmas=[1.0, 0.5, 0.0])  # whose pipeline asks once more at the end
    alone = made("FlowMatchEulerDiscreteScheduler", 1, shift_terminal=0.1)  # of one step diffusers makes nan
    for scheduler in (flow, long, alone):
        with pytest.raises(ModelError, match=f"of {type(scheduler).__name__} make no chain"):
            schedule_of(scheduler, 1.0)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("EulerAncestralDiscreteScheduler", {"beta_end": 0.1}),
        ("DDIMScheduler", {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "clip_sample": False}),
    ],
)
def test_where_the_scheduler_s_own_step_is_nan_the_kernel_is_taken(name, config):
    scheduler = made(name, 30 if name == "DDIMScheduler" else 5, rescale_betas_zero_snr=True, **config)
    assert own_options(scheduler, None) is None
    for transition in schedule_of(scheduler).transitions:
        x, output = torch.randn(2, 1, 1, 4, 4)
        said = prediction_of(scheduler, output, x, transition.before)
        assert bool(transition.mean(said.x0hat, said.epshat).isfinite().all())


class Quieter(diffusers.DDIMScheduler):
    """Whose step is the known one, with another variance."""

    def _get_variance(self, timestep, prev_timestep):
        return 0.5 * super()._get_variance(timestep, prev_timestep)


def test_a_step_that_is_not_that_of_the_kernel_is_found_before_the_run():
    refusal = rehearse(pipe(Quieter()), 5, None)
    assert isinstance(refusal, ModelError) and "makes other latents than the kernel" in str(refusal)
    assert rehearse(pipe(diffusers.DDIMScheduler()), 5, None) is None


class Broken(diffusers.DDPMScheduler):
    def _get_variance(self, t, predicted_variance=None, variance_type=None):
        raise KeyError("no variance")


def test_a_step_that_raises_is_an_error_of_ours_before_the_run():
    refusal = rehearse(pipe(Broken()), 5, None)
    assert isinstance(refusal, ModelError) and "Broken cannot take step 0 of 5, at time 800: KeyError" in str(refusal)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"])
def test_equal_timesteps_at_the_start_of_which_diffusers_takes_the_second_are_named(name):
    scheduler = made(name, 26, **SMALL, **SDE, use_beta_sigmas=True)
    assert scheduler.timesteps[0] == scheduler.timesteps[1]
    with pytest.raises(ModelError, match=r"first two timesteps are both 48.*take fewer steps"):
        own_options(scheduler, None)
    scheduler.set_begin_index(0)  # as many pipelines do
    assert own_options(scheduler, None) == {}


def test_a_trial_leaves_the_scheduler_as_it_was():
    scheduler = made("DPMSolverMultistepScheduler", **SDE)
    before = {key: repr(value) for key, value in vars(scheduler).items()}
    own_options(scheduler, None)
    assert {key: repr(value) for key, value in vars(scheduler).items()} == before


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("LMSDiscreteScheduler", {"prediction_type": "flow_prediction"}),
        ("RePaintScheduler", {"beta_schedule": "sigmoid"}),
        ("CogVideoXDPMScheduler", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
    ],
)
def test_no_scheduler_is_advised_that_would_itself_be_refused(name, config):
    with pytest.raises(ModelError, match=rf"{name} cannot be steered.*best_of_n") as said:
        schedule_of(getattr(diffusers, name)(**config))
    assert "from_config" not in str(said.value)


def test_a_shift_that_another_scheduler_has_left_in_the_config_is_none():
    shifting = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    other = diffusers.DDIMScheduler.from_config(shifting.config)
    assert rehearse(pipe(other), 5, None) is None


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDPMParallelScheduler"])
@pytest.mark.parametrize("kind", ["learned", "learned_range"])
def test_a_variance_that_the_network_says_is_refused_with_what_to_set(name, kind):
    scheduler = made(name, variance_type=kind)
    refusal = rehearse(pipe(scheduler), 5, None)
    code = re.search(r"set pipe\.scheduler = (.*\)), or", str(refusal)).group(1)
    other = eval(code, {**vars(diffusers), "pipe": pipe(scheduler)})
    assert type(other) is type(scheduler) and rehearse(pipe(other), 5, None) is None


SETTINGS = {
    "config": lambda each: each.register_to_config(prediction_type="v_prediction"),
    "levels": lambda each: each.sigmas[2:-1].mul_(0.999),
    "times": lambda each: each.set_timesteps(6),
    "start": lambda each: each.set_begin_index(0),
    "class": lambda each: setattr(each, "__class__", type("EulerAncestralDiscreteScheduler", (type(each),), {})),
}


@pytest.mark.parametrize("changed", SETTINGS)
def test_steps_are_tried_once_for_each_way_in_which_a_scheduler_is_set(changed, monkeypatch):
    tries, tried, try_steps = [], {}, scheduler_trial._try_steps
    monkeypatch.setattr(scheduler_trial, "_try_steps", lambda *given: tries.append(1) or try_steps(*given))
    scheduler, x = made("EulerAncestralDiscreteScheduler"), torch.zeros(1, 1)
    own_options(scheduler, None, tried)
    scheduler.step(x, scheduler.timesteps[0], scheduler.scale_model_input(x, scheduler.timesteps[0]))
    own_options(copy_scheduler(scheduler), None, tried)  # as a run does, and nothing but its place has changed
    assert len(tries) == 1
    SETTINGS[changed](scheduler)
    own_options(scheduler, None, tried)
    assert len(tries) == 2
