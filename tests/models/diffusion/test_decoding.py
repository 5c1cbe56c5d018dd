"""The VAE of a pipeline: where it rests while it is offloaded, and those that are not used as the usual ones are."""

from __future__ import annotations

import copy
import dataclasses
import types

import numpy as np
import pytest
import torch
from test_pipeline import SIZE, STEPS, bright, last_of, made, plain_noise, stable_diffusion, unet, vae
from test_pipeline_opening import animatediff

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models import diffusion as fd
from feynkac.models.diffusion.pipeline_end import OwnEnd

diffusers = pytest.importorskip("diffusers")

from diffusers.utils.torch_utils import randn_tensor  # noqa: E402  # needs diffusers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

REWARD = fk.reward(bright, 5.0, batch=True)


def tiny():
    torch.manual_seed(0)
    pipe = stable_diffusion()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def steer(pipe, preview=None, **options):
    model = fk.Diffusion.from_pipeline(pipe, STEPS, preview=preview, **options).prompt("a cat", **SIZE)
    return fk.steer(model, REWARD, particles=3, seed=0)


# --- offloading ------------------------------------------------------------------------------------------------------


class Offloaded(diffusers.AutoencoderKL):
    """Rests on another device, and is brought by a hook of accelerate when its decoder is called."""

    stash = None

    def decode(self, z, *args, **options):
        assert z.device.type == "cpu", "latents are expected where the pipeline runs, not where the VAE rests"
        self.load_state_dict(self.stash, assign=True)
        return super().decode(z, *args, **options)


@pytest.mark.parametrize("preview", [None, "full"])
def test_latents_go_to_where_an_offloaded_vae_will_run(preview):
    wanted = steer(tiny(), preview)
    pipe = tiny()
    pipe.vae.__class__ = Offloaded
    pipe.vae.stash = {key: value.clone() for key, value in pipe.vae.state_dict().items()}
    pipe.vae.to("meta")
    for part in (pipe.vae, pipe.unet, pipe.text_encoder):
        part._hf_hook = types.SimpleNamespace(execution_device=torch.device("cpu"))
    assert pipe.vae.device.type == "meta"
    found = steer(pipe, preview)
    assert found.log_evidence == wanted.log_evidence and torch.equal(found.samples[0], wanted.samples[0])


@pytest.mark.parametrize("preview", [None, "full"])
def test_weights_that_accelerate_keeps_elsewhere_are_found(preview):
    accelerate = pytest.importorskip("accelerate")
    wanted, pipe = steer(tiny(), preview), tiny()
    for part in (pipe.vae, pipe.unet, pipe.text_encoder):
        accelerate.cpu_offload(part, torch.device("cpu"), offload_buffers=True)
    for _ in range(2):
        assert np.isclose(steer(pipe, preview).log_evidence, wanted.log_evidence)
    assert pipe.vae.device.type == "meta"


# --- other VAEs ------------------------------------------------------------------------------------------------------


class Foreign(torch.nn.Module):
    """A VAE with a way of its own; `fault` says which."""

    def __init__(self, fault):
        super().__init__()
        self.fault, self.weight = fault, torch.nn.Parameter(torch.ones(1))
        known = {} if fault == "no scale" else {"scaling_factor": 1.0}
        self.config = types.SimpleNamespace(**known, block_out_channels=(8, 8))
        self.device = torch.device("cpu")
        if fault != "no type":
            self.dtype = torch.float32

    def decode(self, z, return_dict=True, **options):
        if self.fault == "another call":
            raise TypeError("decode() missing 1 required argument: 'temb'")
        if self.fault == "another rank":
            return torch.nn.functional.conv3d(z, self.weight.expand(3, 4, 1, 1, 1))
        if self.fault == "not there":
            raise NotImplementedError
        return (z[:, :3],)


FAULTS = {
    "another call": "TypeError: .*missing 1 required",
    "another rank": "RuntimeError",
    "not there": "NotImplementedError",
    "no scale": "no scaling_factor",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_vae_with_its_own_ways_is_refused_before_the_second_pass_of_the_network(fault):
    passes = []
    pipe = tiny()
    pipe.unet.register_forward_pre_hook(lambda *_: passes.append(1) and None)
    pipe.vae = Foreign(fault)
    model = fk.Diffusion.from_pipeline(pipe, STEPS).prompt("a cat", **SIZE)
    reward = fk.reward(bright, every="end", batch=True)
    with pytest.raises(ModelError, match=rf"Foreign of StableDiffusionPipeline .*{FAULTS[fault]}.*decode="):
        fk.steer(model, reward, particles=2, seed=0)
    assert len(passes) == 1
    given = fk.Diffusion.from_pipeline(pipe, STEPS, decode=lambda x: x[:, :3].sigmoid()).prompt("a cat", **SIZE)
    assert np.isfinite(fk.steer(given, reward, particles=2, seed=0).log_evidence)


# --- pipelines that decode in a way of their own ---------------------------------------------------------------------


class Odd(torch.nn.Module):
    """A VAE of frames that wants to be told how many there are, and whose latents have no usual scale."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.config, self.device = inner, types.SimpleNamespace(block_out_channels=(8, 8)), inner.device

    def decode(self, z, frames):
        return self.inner.decode(z * frames).sample


class OwnWay(diffusers.StableDiffusionPipeline):
    """Decodes what it has packed, and blackens the finished picture where it has been told to."""

    def __call__(self, *args, output_type="pil", callback_on_step_end=None, **options):
        latents = super().__call__(*args, output_type="latent", callback_on_step_end=callback_on_step_end, **options)[0]
        if output_type == "latent":
            return (latents.flatten(2),)
        pictures = (self.vae.decode(latents.flip(-1), frames=0.5) / 2 + 0.5).clamp(0, 1)
        pictures = pictures if self.safety_checker is None else pictures * 0
        return (pictures if output_type == "pt" else pictures.movedim(-3, -1).numpy(),)


def own_way(scheduler=None):
    torch.manual_seed(0)
    pipe = OwnWay(**stable_diffusion(scheduler).components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.vae = Odd(pipe.vae)
    return pipe


@pytest.mark.parametrize("algorithm", ["smc", "importance"])
def test_where_the_usual_way_fails_latents_are_decoded_by_the_end_of_the_pipeline_s_own_call(algorithm):
    pipe, told = own_way(), []
    call = {"prompt": "a cat", "callback_on_step_end": lambda _, k, t, given: told.append(k) or given, **SIZE}
    eta = {"eta": 1.0} if algorithm == "smc" else {}
    model = fk.Diffusion.from_pipeline(pipe, STEPS, eta.get("eta")).prompt(**call)
    result = fk.steer(model, fk.reward(bright, every="end", batch=True), particles=3, seed=0, algorithm=algorithm)
    assert told == list(range(STEPS)), "calls that decode are none of the user's"
    call.pop("callback_on_step_end")
    options = {"num_images_per_prompt": 3, "num_inference_steps": STEPS, "output_type": "pt", "eta": 1.0, **call}
    (theirs,) = pipe(generator=plain_noise(3), **options)
    found = sorted(float(image.mean()) for image in result.samples)
    assert np.allclose(found, sorted(theirs.mean((1, 2, 3)).tolist()), atol=1e-6)


def test_what_decodes_by_the_pipeline_s_own_end_runs_no_network_and_checks_no_picture():
    pipe, passes = own_way(), []
    pipe.unet.register_forward_pre_hook(lambda *_: passes.append(1) and None)
    pipe.safety_checker = checker = Odd(pipe.vae.inner)
    model = fk.Diffusion.from_pipeline(pipe, STEPS).prompt("a cat", **SIZE)
    result = fk.steer(model, fk.reward(bright, batch=True), particles=2, seed=0)
    assert len(passes) == STEPS and all(float(image.max()) > 0.0 for image in result.samples)
    assert pipe.safety_checker is checker


class Upcasts(OwnWay):
    """Writes to its VAE what it is to be for the last step, as those do that decode in single precision."""

    def __call__(self, *args, **options):
        self.vae.config.scale = self.vae.inner.scale = 2.0
        return super().__call__(*args, **options)


def test_what_decodes_by_the_pipeline_s_own_end_writes_to_no_decoder():
    plain = own_way()
    pipe = Upcasts(**{**plain.components, "vae": plain.vae.inner}, requires_safety_checker=False)
    pipe.vae = plain.vae
    end = OwnEnd(pipe, ({"prompt": "a cat", **SIZE},), {"num_inference_steps": STEPS})
    with torch.no_grad():
        assert end(torch.randn(1, 4, 8, 8)).shape == (1, 3, 16, 16)
    assert not hasattr(pipe.vae.inner, "scale") and not hasattr(pipe.vae.config, "scale")


def test_what_decodes_by_the_pipeline_s_own_end_has_no_gradient_and_says_so():
    reward = fk.reward(bright, batch=True)
    model = fk.Diffusion.from_pipeline(own_way(), STEPS, proposal=fd.Guided(reward)).prompt("a cat", **SIZE)
    with pytest.raises(
        ModelError, match=r"OwnWay decodes in a way of its own.*no gradient; give from_pipeline decode="
    ):
        fk.steer(model, reward, particles=2)


def test_a_linear_preview_of_latents_that_are_no_pictures_is_refused():
    kind = {"_unpack_latents": staticmethod(lambda latents, size: latents)}
    pipe = type("Packs", (OwnWay,), kind)(**stable_diffusion().components, requires_safety_checker=False)
    with pytest.raises(ArgumentError, match="preview='linear' is fitted to a VAE whose latents"):
        fk.Diffusion.from_pipeline(pipe, STEPS, preview="linear")


class Sounding(diffusers.DDIMPipeline):
    """Draws a sound beside each picture, with a scheduler of its own, and decodes pictures in a way of its own."""

    def __init__(self, unet, scheduler):
        super().__init__(unet, scheduler)
        self.vqvae = torch.nn.Identity()

    def __call__(self, batch_size=1, generator=None, num_inference_steps=4, output_type="pt"):
        x, sound = (randn_tensor((batch_size, 1, 8, width), generator=generator) for width in (8, 3))
        self.scheduler.set_timesteps(num_inference_steps)
        other = copy.deepcopy(self.scheduler)
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self.unet(x, t).sample, t, x, generator=generator).prev_sample
            sound = other.step(0.1 * sound, t, sound).prev_sample
        return ((x.detach() + 5.0) / 10.0, sound)


def test_a_pipeline_with_a_second_scheduler_runs_whole_and_is_refused_otherwise():
    torch.manual_seed(0)
    pipe = Sounding(unet(), diffusers.DDIMScheduler())
    model = fk.Diffusion.from_pipeline(pipe, STEPS, eta=0.0)
    result = fk.steer(model, REWARD, particles=2, seed=0, algorithm="importance")
    theirs = pipe(2, plain_noise(2), STEPS)[0]
    assert torch.equal(torch.stack(list(result.samples)), theirs)
    with pytest.raises(ModelError, match=r"a sound beside the pictures.*as without eta=, algorithm='best_of_n'"):
        fk.steer(fk.Diffusion.from_pipeline(pipe, STEPS), REWARD, particles=2, seed=0)


class Delegates(diffusers.DDIMPipeline):
    """Leaves its steps to a copy of its scheduler, as those do that give each frame its own times."""

    def __call__(self, batch_size=1, generator=None, num_inference_steps=4, output_type="pt"):
        self.scheduler = copy.deepcopy(self.scheduler)
        return super().__call__(batch_size, generator, 0.0, num_inference_steps, output_type=output_type)


def test_steps_that_are_left_to_copies_of_the_scheduler_are_refused():
    model = fk.Diffusion.from_pipeline(Delegates(unet(), diffusers.DDIMScheduler()), STEPS, eta=0.0)
    with pytest.raises(
        ModelError, match="Delegates leaves its steps to copies of its scheduler, and cannot be steered"
    ):
        fk.steer(model, REWARD, particles=2, seed=0, algorithm="importance")


class Insists(OwnWay):
    """Does not run without what checks its pictures."""

    def __call__(self, *args, **options):
        if self.safety_checker is None:
            raise ValueError("the check cannot be turned off")
        return super().__call__(*args, **options)


def test_what_checks_pictures_stays_where_the_pipeline_insists_on_it():
    plain = own_way()
    pipe = Insists(**{**plain.components, "vae": plain.vae.inner}, requires_safety_checker=False)
    pipe.vae, pipe.safety_checker = plain.vae, Odd(plain.vae.inner)
    end = OwnEnd(pipe, ({"prompt": "a cat", **SIZE},), {"num_inference_steps": STEPS})
    with torch.no_grad():
        assert (end(torch.randn(1, 4, 8, 8)) == 0.0).all()
        with pytest.raises(ModelError, match="draws latents of other shapes than"):
            end(torch.randn(1, 4, 9, 9))


class Trims(diffusers.AnimateDiffPipeline):
    """Leaves the first frame of each video out, once it is decoded."""

    def __call__(self, *args, output_type="pil", **options):
        (video,) = super().__call__(*args, output_type=output_type, return_dict=False, **options)
        return (video if output_type == "latent" else video[:, 1:],)


def test_a_video_that_the_pipeline_changes_once_it_is_decoded_is_what_rewards_see():
    torch.manual_seed(0)
    moving = animatediff().components
    pipe = Trims(**moving)
    pipe.set_progress_bar_config(disable=True)
    call, seen = {"prompt": "a cat", "num_frames": 3, "guidance_scale": 1.0, **SIZE}, []
    model = fk.Diffusion.from_pipeline(pipe, STEPS).prompt(**call)
    reward = fk.reward(lambda x: seen.append(tuple(x.shape)) or bright(x), 0.0, every="end", batch=True)
    last = last_of(model, reward, n=2)
    options = {"num_inference_steps": STEPS, "output_type": "pt", "eta": 1.0, **call, "prompt": ["a cat"] * 2}
    (theirs,) = pipe(generator=plain_noise(2), **options)
    assert seen == [(2, 2, 3, 16, 16)]
    assert torch.allclose(torch.stack(last.state.samples(np.arange(2))), theirs, atol=1e-5)


class Unshifted(diffusers.StableDiffusionPipeline):
    """Leaves the shift of its VAE out, as Stable Diffusion 3 does that fills in a part of a picture."""

    def __call__(self, *args, output_type="pil", **options):
        latents = super().__call__(*args, output_type="latent", **options)[0]
        if output_type == "latent":
            return (latents,)
        pictures = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return (self.image_processor.postprocess(pictures.detach(), output_type=output_type),)


def test_a_shift_that_a_pipeline_leaves_out_is_left_out():
    torch.manual_seed(0)
    parts = {**stable_diffusion().components, "vae": vae(scaling_factor=1.5, shift_factor=0.5)}
    pipe = Unshifted(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    last = last_of(fk.Diffusion.from_pipeline(pipe, STEPS).prompt("a cat", **SIZE), fk.reward(bright, 0.0, batch=True))
    options = {"num_images_per_prompt": 4, "num_inference_steps": STEPS, "output_type": "pt", "eta": 1.0, **SIZE}
    (theirs,) = pipe("a cat", generator=plain_noise(4), **options)
    assert torch.allclose(torch.stack(last.state.samples(np.arange(4))), theirs, atol=1e-5)


class Sized(diffusers.FluxPipeline):
    """Draws for a size of its own, as those do that go by an image; it has as many patches as that asked for."""

    def __call__(self, prompt=None, num_images_per_prompt=1, output_type="pil", height=None, width=None, **options):
        return super().__call__(
            prompt, num_images_per_prompt=num_images_per_prompt, output_type=output_type, height=8, width=32, **options
        )


@pytest.mark.parametrize("size", [{}, SIZE])
def test_packed_latents_are_unpacked_to_the_size_that_the_pipeline_draws_them_for(size):
    plain, _, _ = made("flux")
    pipe = Sized(**plain.components)
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": "a cat", "max_sequence_length": 8, **size}
    model = fk.Diffusion.from_pipeline(pipe, STEPS).prompt(**call)
    result = fk.steer(model, fk.reward(bright, batch=True), particles=2, seed=0, algorithm="importance")
    options = {"num_images_per_prompt": 2, "num_inference_steps": STEPS, "output_type": "pt"}
    theirs = pipe(generator=plain_noise(2), **options, **call).images
    assert theirs.shape == (2, 3, 8, 32) and torch.allclose(torch.stack(list(result.samples)), theirs, atol=1e-5)


@pytest.mark.parametrize("unpack", [lambda latents, *_: latents, lambda latents, *_: latents.reshape(-1, 7)])
def test_latents_that_cannot_be_unpacked_are_told_with_what_to_give(unpack):
    plain, _, call = made("flux")
    kind = {"_unpack_latents": staticmethod(lambda latents, height, width, vae_scale_factor: unpack(latents))}
    pipe = type("Odd", (diffusers.FluxPipeline,), kind)(**plain.components)
    model = fk.Diffusion.from_pipeline(pipe, STEPS, eta=1.0).prompt(**call)
    for preview in (None, "full"):
        with pytest.raises(ModelError, match=r"cannot be decoded with the AutoencoderKL of Odd .* give from_pipeline"):
            fk.steer(dataclasses.replace(model, preview=preview), particles=2)


def test_whole_runs_try_the_decoder_before_they_begin():
    passes = []
    torch.manual_seed(0)
    pipe = stable_diffusion(diffusers.EulerDiscreteScheduler())
    pipe.unet.register_forward_pre_hook(lambda *_: passes.append(1) and None)
    pipe.vae = Foreign("another call")
    model = fk.Diffusion.from_pipeline(pipe, STEPS).prompt("a cat", **SIZE)
    with pytest.raises(ModelError, match="decode="):
        fk.steer(model, REWARD, particles=2, algorithm="best_of_n")
    assert len(passes) == 1


def test_a_decoder_that_no_guess_asks_is_tried_before_the_second_pass_all_the_same():
    passes = []
    pipe = tiny()
    pipe.unet.register_forward_pre_hook(lambda *_: passes.append(1) and None)
    pipe.vae = Foreign("another call")
    model = fk.Diffusion.from_pipeline(pipe, STEPS, preview="full").prompt("a cat", **SIZE)
    with pytest.raises(ModelError, match="decode="):
        fk.steer(model, fk.reward(bright, every="end", batch=True), particles=2)
    assert len(passes) == 1


def test_a_decoder_that_runs_out_of_memory_is_no_foreign_one():
    pipe = tiny()

    def full(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    pipe.vae.decode = full
    with pytest.raises(ModelError, match="memory ran out"):
        steer(pipe, "full")


def test_a_decoder_of_the_user_is_not_tried():
    calls = []
    pipe, _, _ = made("sd15")
    model = fk.Diffusion.from_pipeline(pipe, STEPS, decode=lambda x: calls.append(len(x)) or x[:, :3].sigmoid())
    last_of(model.prompt("a cat", **SIZE), fk.reward(bright, every="end", batch=True))
    assert calls == [4]
