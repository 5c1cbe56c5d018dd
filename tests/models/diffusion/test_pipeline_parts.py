"""Networks of pipelines that get a part of the particles at a time: the same numbers, in less memory."""

from __future__ import annotations

import contextlib
import dataclasses
import types

import numpy as np
import pytest
import torch
from test_pipeline import PIPELINES, SIZE, STEPS, bright, ddim, flux, made, stable_diffusion
from test_pipeline_whole import quiet

import feynkac as fk
from feynkac.base.errors import ModelError
from feynkac.models import diffusion as fd
from feynkac.models.diffusion.pipeline_parts import InParts, Room, place_parts
from feynkac.models.diffusion.pipeline_rows import Joined, count_rows, take_rows

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

REWARD = fk.reward(bright, 300.0, batch=True)


def run(model, particles=5, **options):
    return fk.steer(model, REWARD, particles=particles, seed=0, **options)


@contextlib.contextmanager
def watched(network):
    """The rows of each call of `network`."""
    rows = []

    def note(_, args, kwargs):
        rows.append(len(args[0] if args else kwargs["hidden_states"]))

    handle = network.register_forward_pre_hook(note, with_kwargs=True)
    yield rows
    handle.remove()


def network_of(pipe):
    return getattr(pipe, "unet", None) or pipe.transformer


def agree(one, other, size=1e-4):
    assert abs(one.log_evidence - other.log_evidence) < size * max(1.0, abs(other.log_evidence))
    assert max(float((x - y).abs().max()) for x, y in zip(one.samples, other.samples, strict=True)) < size
    assert np.ptp(other.log_weights) > 0 or other.history.resampled


@pytest.mark.parametrize("name", PIPELINES)
def test_parts_give_what_one_batch_gives(name):
    pipe, whole, _ = made(name)
    with watched(network_of(pipe)) as all_rows:
        wanted = run(whole)
    with watched(network_of(pipe)) as rows:
        found = run(dataclasses.replace(whole, batch=2))
    assert max(rows) == 2 * max(all_rows) // 5 and sum(rows) == sum(all_rows) + 1  # one row proves that it may be
    agree(found, wanted)


# --- the other networks of a call ------------------------------------------------------------------------------------


def test_a_controlnet_and_the_network_that_it_controls_are_run_on_parts():
    torch.manual_seed(0)
    usual = stable_diffusion()
    control = diffusers.ControlNetModel.from_unet(usual.unet, conditioning_embedding_out_channels=(4, 8)).eval()
    for each in (*control.controlnet_down_blocks, control.controlnet_mid_block):
        torch.nn.init.normal_(each.weight, std=0.1)
    pipe = diffusers.StableDiffusionControlNetPipeline(
        **{**usual.components, "controlnet": control}, requires_safety_checker=False
    )
    model = fk.Diffusion.from_pipeline(quiet(pipe), STEPS).prompt(
        "a cat", image=torch.rand(1, 3, 16, 16), guidance_scale=5.0, **SIZE
    )
    wanted = run(model)
    with watched(control) as controls, watched(pipe.unet) as rows:
        agree(run(dataclasses.replace(model, batch=2)), wanted)
    assert max(controls) == max(rows) == 4


def test_several_prompts_with_guidance_are_run_on_parts():
    _, model, _ = made("sd15")
    models = [model.prompt(text, guidance_scale=5.0, **SIZE) for text in ("a cat", "dogs")]
    wanted = run(models, 3)
    found = run([dataclasses.replace(each, batch=2) for each in models], 3)
    for one, other in zip(found, wanted, strict=True):
        agree(one, other)


def test_conditional_runs_whole_runs_and_guided_proposals_are_run_on_parts():
    pipe, model, _ = made("sd15")
    parts = dataclasses.replace(model, batch=3)
    agree(run(parts, 4, algorithm="gibbs", sweeps=2), run(model, 4, algorithm="gibbs", sweeps=2))
    with watched(pipe.unet) as rows:
        found = run(parts, 4, algorithm="importance")
    assert max(rows) == 4
    agree(found, run(model, 4, algorithm="importance"))
    guided = dataclasses.replace(model, proposal=fd.Guided(REWARD, trust=0.5))
    agree(run(dataclasses.replace(guided, batch=3), 4), run(guided, 4))


def test_as_many_particles_as_fit_are_one_batch_bit_by_bit():
    pipe, model, _ = made("ddim")
    with watched(pipe.unet) as rows:
        found = run(dataclasses.replace(model, batch=5))
    assert set(rows) == {5}
    assert all(torch.equal(x, y) for x, y in zip(found.samples, run(model).samples, strict=True))


# --- how networks are kept -------------------------------------------------------------------------------------------


def test_a_compiled_network_is_run_on_parts():
    wanted = run(odd(""), 4)
    model = odd("", batch=2)
    model.pipe.unet = torch.compile(model.pipe.unet, backend="eager")
    with watched(model.pipe.unet) as rows:
        agree(run(model, 4), wanted)
    assert rows == [2, 2] * 2, "what proves that it may be split is not compiled for one more shape"


def test_offloaded_weights_are_brought_for_each_part():
    accelerate = pytest.importorskip("accelerate")
    pipe, model, _ = made("sd15")
    wanted = run(model, 4)
    accelerate.cpu_offload(pipe.unet, torch.device("cpu"))
    agree(run(dataclasses.replace(model, batch=2), 4), wanted)
    assert {each.device.type for each in pipe.unet.parameters()} == {"meta"}


def test_half_precision_is_run_on_parts():
    torch.manual_seed(0)
    model = fk.Diffusion.from_pipeline(quiet(ddim().to(torch.bfloat16)), STEPS)
    wanted = fk.steer(model, fk.reward(bright, batch=True), particles=5, seed=0)
    found = fk.steer(dataclasses.replace(model, batch=2), fk.reward(bright, batch=True), particles=5, seed=0)
    assert abs(found.log_evidence - wanted.log_evidence) < 0.05 and found.complete


def test_a_callback_sees_all_particles():
    _, model, call = made("sd15")
    seen = []

    def note(pipe, step, time, kept):
        seen.append((step, len(kept["latents"]), isinstance(pipe.unet, diffusers.UNet2DConditionModel)))
        return kept

    run(dataclasses.replace(model, batch=2).prompt(**call, callback_on_step_end=note), 5)
    assert seen == [(step, 5, True) for step in range(STEPS)]


def test_a_stand_in_is_its_network_but_for_its_calls():
    pipe, _, _ = made("sd15")
    mine = types.SimpleNamespace(unet=pipe.unet, vae=pipe.vae, text_encoder=pipe.text_encoder, steps=3)
    place_parts(mine, Room(4, 2))
    assert type(mine.unet) is InParts and isinstance(mine.unet, diffusers.UNet2DConditionModel)
    assert mine.vae is pipe.vae and mine.text_encoder is pipe.text_encoder and mine.steps == 3
    assert mine.unet.config is pipe.unet.config and mine.unet.dtype == pipe.unet.dtype
    mine.unet.mark = 1
    assert pipe.unet.mark == 1
    del mine.unet.mark
    assert not hasattr(pipe.unet, "mark")


# --- which arguments have rows ---------------------------------------------------------------------------------------


def test_places_of_patches_are_no_rows_even_where_there_are_as_many_as_particles():
    torch.manual_seed(0)
    pipe = quiet(flux())
    places = []
    pipe.transformer.register_forward_pre_hook(lambda _, args, given: places.append(given["img_ids"]), with_kwargs=True)
    model = fk.Diffusion.from_pipeline(pipe, 2, 0.8).prompt("a cat", max_sequence_length=8, **SIZE)
    with watched(pipe.transformer) as rows:
        wanted = run(model, 16)  # of 16 patches
        agree(run(dataclasses.replace(model, batch=8), 16), wanted)
    assert rows == [16] * 2 + [8, 8, 1, 8, 8] and {len(each) for each in places} == {16}


def test_arguments_with_rows_are_found_however_they_are_nested():
    x = torch.arange(4.0)[:, None] * torch.ones(4, 3)
    kwargs = {
        "time": torch.tensor(5.0),
        "one": torch.ones(1),
        "times": torch.arange(4),
        "added": {"text": [x + 1, (x + 2,)], "scale": 0.5, "none": None},
        "img_ids": x,
        "frames": x.repeat_interleave(2, 0)[:, None],
        "again": x.repeat(2, 1)[:, None],
    }
    assert count_rows(((x,), kwargs), 2) == 4 and count_rows(((x,), kwargs), 3) is None
    assert count_rows(((torch.arange(4),), {}), 2) is None
    (part,), found = take_rows((x,), kwargs, 4, 1, 3)
    assert torch.equal(part, x[1:3]) and torch.equal(found["times"], torch.tensor([1, 2]))
    assert found["time"] is kwargs["time"] and found["one"] is kwargs["one"] and found["img_ids"] is x
    assert torch.equal(found["added"]["text"][1][0], x[1:3] + 2) and found["added"]["scale"] == 0.5
    assert found["frames"][:, 0, 0].tolist() == [1, 1, 2, 2] and found["again"][:, 0, 0].tolist() == [1, 2, 1, 2]


def test_what_a_network_returns_of_parts_is_put_together_in_its_own_form():
    from diffusers.models.unets.unet_2d import UNet2DOutput

    x = torch.arange(10.0).reshape(5, 2)
    joined, listed = Joined(5), Joined(5)
    for first, last in ((0, 2), (2, 5)):
        part = x[first:last]
        joined.add(UNet2DOutput(sample=part), first, last)
        listed.add(([part, part.repeat_interleave(2, 0)], None, 3), first, last)
    assert isinstance(joined.value, UNet2DOutput) and torch.equal(joined.value.sample, x)
    (one, two), none, three = listed.value
    assert torch.equal(one, x) and torch.equal(two, x.repeat_interleave(2, 0)) and (none, three) == (None, 3)
    with pytest.raises(TypeError, match="not the same for all of its rows"):
        listed.add(([x, x.repeat_interleave(2, 0)], None, 4), 0, 5)
    with pytest.raises(TypeError, match="one thing for some"):
        listed.add((x,), 0, 5)


# --- networks that cannot be split -----------------------------------------------------------------------------------


class Odd(torch.nn.Module):
    """A network that looks at more than its row."""

    def __init__(self, kind):
        super().__init__()
        self.inner, self.norm = torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.BatchNorm2d(1)
        self.kind, self.last = kind, 0.0

    def forward(self, x, t, **_):
        out = self.inner(x) * (1.0 + t / 1000)
        if self.kind == "mean":
            out = out - 0.5 * out.mean(0)
        elif self.kind == "norm":
            out = self.norm(out)
        elif self.kind == "slot":
            out = out * (1.0 + 0.5 * torch.arange(len(x)).reshape(-1, 1, 1, 1))
        elif self.kind == "dropout":
            out = torch.nn.functional.dropout(out, 0.5)
        elif self.kind == "last":
            out, self.last = out + 0.5 * self.last, out.mean()
        elif self.kind == "size" and len(x) != 4:
            raise ValueError("I take four")
        return (out,)


class Plain:
    """A pipeline of any network."""

    def __init__(self, network, scheduler):
        self.unet, self.scheduler = network, scheduler

    def __call__(self, batch_size=1, generator=None, num_inference_steps=4, eta=0.0):
        x = torch.stack([torch.randn(1, 8, 8, generator=each) for each in generator])
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            with torch.no_grad():
                output = self.unet(x, t)[0]
            x = self.scheduler.step(output, t, x, eta=eta, generator=generator).prev_sample
        return (x,)


def odd(kind, **options):
    torch.manual_seed(0)
    return fk.Diffusion.from_pipeline(Plain(Odd(kind), diffusers.DDIMScheduler()), 2, **options)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", ["mean", "norm", "slot", "dropout", "last", "size"])
def test_a_network_that_looks_at_more_than_its_row_is_refused_by_name(kind, batch):
    why = "raises ValueError: I take four" if kind == "size" else "depends on the others"
    with pytest.raises(ModelError, match=rf"the unet \(Odd\) cannot be run on some of its 4 .*{why}.*at least 4"):
        run(odd(kind, batch=batch), 4, algorithm="importance")
    assert run(odd(kind, batch=4), 4, algorithm="importance").complete
    assert run(odd(kind), 4, algorithm="importance").complete


def test_a_network_that_looks_at_its_row_alone_is_not_refused():
    for batch in (1, 2, 3):
        agree(run(odd("", batch=batch), 4), run(odd(""), 4))


def test_a_cache_of_diffusers_is_not_run_on_parts():
    torch.manual_seed(0)
    pipe = quiet(flux())
    pipe.transformer.enable_cache(diffusers.hooks.FirstBlockCacheConfig(threshold=0.1))
    model = fk.Diffusion.from_pipeline(pipe, 2, 1.0, batch=2).prompt("a cat", max_sequence_length=8, **SIZE)
    with pytest.raises(ModelError, match=r"the transformer \(FluxTransformer2DModel\) cannot.*keeps what it computed"):
        run(model, 4, algorithm="importance")


# --- memory ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def room_for(network, most):
    """A device on which `network` fits with so many rows."""
    rows = []

    def check(_, args):
        if len(args[0]) > most:
            raise torch.OutOfMemoryError("out of memory")
        rows.append(len(args[0]))

    handle = network.register_forward_pre_hook(check)
    yield rows
    handle.remove()


@pytest.mark.parametrize("algorithm", ["smc", "importance"])
@pytest.mark.parametrize("batch", [None, 5])
def test_where_memory_runs_out_parts_are_halved_and_the_result_says_so_once(batch, algorithm, caplog):
    pipe, model, _ = made("ddim")
    wanted = run(model, 8, algorithm=algorithm)
    with room_for(pipe.unet, 2) as rows:
        found = run(dataclasses.replace(model, batch=batch), 8, algorithm=algorithm)
    agree(found, wanted)
    assert max(rows) == 2 and sum(rows) == 8 * STEPS + 1
    said = [each for each in found.warnings if "memory ran out while the unet (UNet2DModel)" in each]
    assert len(said) == 1 and "batch=" in said[0]
    told = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len([record for record in told if "it gets fewer at a time" in record.getMessage()]) == 1


def test_memory_for_less_than_one_row_is_an_error_that_says_what_to_do():
    pipe, model, _ = made("ddim")
    with (
        room_for(pipe.unet, 0),
        pytest.raises(ModelError, match=r"DDIMPipeline ran out of memory.*fewer particles.*half"),
    ):
        run(dataclasses.replace(model, batch=2), 4)


def test_a_network_that_cannot_be_split_says_so_where_memory_runs_out():
    model = odd("mean")
    with room_for(model.pipe.unet, 2), pytest.raises(ModelError, match=r"cannot be run on some.*memory ran out"):
        run(model, 4)
