"""A pipeline is shared: by runs in threads, by its user's own calls meanwhile; and none of them writes to it."""

from __future__ import annotations

import asyncio
import copy
import gc
import itertools
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from test_pipeline import PIPELINES, SIZE, STEPS, bright, ddim, made, plain_noise, stable_diffusion

import feynkac as fk
from feynkac.base.errors import ModelError
from feynkac.models import diffusion as fd
from feynkac.models.diffusion.decoding import copy_vae, decoder_of
from feynkac.models.diffusion.pipeline_copy import copy_pipeline
from feynkac.smc import resample as schemes
from feynkac.smc.engine import smc
from feynkac.smc.rng import Streams

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

THREADS, RUNS = 3, 3
REWARD = fk.reward(bright, 300.0, batch=True)


def outcome(model, seed):
    """All numbers of a run."""
    result = fk.steer(model, REWARD, particles=3, seed=seed, progress=False)
    return result.log_evidence, result.log_weights, torch.stack(list(result.samples))


def same(one, other):
    return one[0] == other[0] and np.array_equal(one[1], other[1]) and torch.equal(one[2], other[2])


def threads(n):
    """Of one core each: torch may cut its work differently in another thread, which would show in the last bits."""
    return ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,))


@pytest.fixture
def cores():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize("name", PIPELINES)
def test_runs_in_threads_are_those_run_alone_bit_by_bit(name):
    pipe, plain, call = made(name)
    guided = fk.Diffusion.from_pipeline(pipe, STEPS, PIPELINES[name][2], proposal=fd.Guided(REWARD, trust=0.5), batch=2)
    models = [plain, guided.prompt(**call) if call else guided, plain]
    jobs = [(models[thread], 10 * thread + k) for thread, k in itertools.product(range(THREADS), range(RUNS))]
    with threads(1) as one:
        alone = list(one.map(lambda job: outcome(*job), jobs))
    barrier = threading.Barrier(THREADS)

    def work(thread):
        barrier.wait()
        return [outcome(*job) for job in jobs[RUNS * thread : RUNS * (thread + 1)]]

    with threads(THREADS) as pool:
        together = [each for found in pool.map(work, range(THREADS)) for each in found]
    assert all(same(one, other) for one, other in zip(alone, together, strict=True))
    assert len({each[0] for each in alone}) == len(jobs), "runs that are all the same prove nothing"


def test_a_pipeline_is_called_as_usual_in_the_middle_of_runs():
    pipe, model, call = made("sd15")
    options = {"num_images_per_prompt": 4, "num_inference_steps": STEPS, "output_type": "latent", **call}
    theirs = pipe(generator=plain_noise(4), **options).images

    def start(seed):
        return smc(model, REWARD, n=4, resample=schemes.ssp, rng=Streams(seed))

    *_, wanted = start(1)
    steps, others = start(1), start(2)
    next(steps)
    for last in steps:  # noqa: B007
        next(others)
        assert torch.equal(pipe(generator=plain_noise(4), **options).images, theirs)
    assert torch.equal(last.state.x, wanted.state.x) and last.t == wanted.t == STEPS - 1


class Guarded(diffusers.DDIMPipeline):
    """Notes who is written to."""

    written: list = []  # noqa: RUF012  # read by its test

    def __setattr__(self, name, value):
        self.written.append((id(self), name))
        super().__setattr__(name, value)

    def __call__(self, batch_size=1, **options):
        self.mark = "set in the call"
        self.register_to_config(_mark=1)
        self.seen.append(1)
        return super().__call__(batch_size, **options)


def test_nothing_is_written_to_the_user_s_pipeline():
    pipe = ddim(Guarded)
    pipe.seen = []
    pipe.set_progress_bar_config(desc="mine")
    found, config = dict(pipe.__dict__), dict(pipe.config)
    networks = {key: dict(vars(module)) for key, module in pipe.unet.named_modules()}
    Guarded.written.clear()
    steps = smc(fk.Diffusion.from_pipeline(pipe, STEPS), REWARD, n=3, resample=schemes.ssp, rng=Streams(0))
    for _ in steps:
        assert pipe.__dict__ == found and dict(pipe.config) == config and pipe.seen == []
        assert pipe.scheduler is found["scheduler"] and type(pipe.scheduler) is diffusers.DDIMScheduler
    assert all(who != id(pipe) for who, _ in Guarded.written) and ("mark" in {name for _, name in Guarded.written})
    assert {key: dict(vars(module)) for key, module in pipe.unet.named_modules()} == networks


def test_a_copy_of_a_pipeline_shares_its_networks_and_nothing_that_is_set():
    pipe = stable_diffusion()
    mine = copy_pipeline(pipe)
    assert mine.unet is pipe.unet and mine.vae is pipe.vae and type(mine) is type(pipe)
    mine.scheduler = pipe.scheduler
    mine.register_to_config(requires_safety_checker=True)
    mine.unet = None
    mine.tokenizer.padding_side = "left"
    assert (
        pipe.tokenizer.padding_side == "right"
        and mine.tokenizer("a cat").input_ids == pipe.tokenizer("a cat").input_ids
    )
    assert pipe.unet is not None and pipe.config["requires_safety_checker"] is False
    assert isinstance(pipe.scheduler, diffusers.DDIMScheduler)


class Combined(diffusers.DDIMPipeline):
    """Calls two pipelines, as those of Kandinsky and Stable Cascade do: the first draws a condition for each sample."""

    def __init__(self, unet, scheduler):
        super().__init__(unet, scheduler)
        self.prior_pipe = diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler())
        self.decoder_pipe = diffusers.DDIMPipeline(unet, scheduler)
        self.decoder_pipe.scheduler = self.scheduler

    def __call__(self, batch_size=1, generator=None, num_inference_steps=4, output_type="pt", **options):
        self.prior_pipe(batch_size, generator, num_inference_steps=3, output_type="pt")
        return self.decoder_pipe(batch_size, generator, 1.0, num_inference_steps, output_type=output_type, **options)


@pytest.mark.parametrize("batch", [None, 2])
def test_pipelines_that_a_pipeline_calls_are_not_written_to_and_run_as_they_do(batch):
    torch.manual_seed(0)
    unet = ddim().unet
    pipe = Combined(unet, diffusers.DDIMScheduler())
    inner = [pipe.prior_pipe, pipe.decoder_pipe]
    found = [(each, dict(vars(each)), dict(vars(each.scheduler))) for each in inner]
    rows = []
    unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    model = fk.Diffusion.from_pipeline(pipe, STEPS, batch=batch)
    result = fk.steer(model, REWARD, particles=4, seed=0, algorithm="importance")
    assert max(rows) == (batch or 4)
    for each, own, levels in found:
        assert vars(each) == own and vars(each.scheduler).keys() == levels.keys()
        assert all(vars(each.scheduler)[name] is value for name, value in levels.items())
    for each in (pipe, *inner):
        each.set_progress_bar_config(disable=True)
    theirs = pipe(4, plain_noise(4), STEPS).images
    assert torch.allclose(torch.stack(list(result.samples)), theirs, atol=1e-5)
    with pytest.raises(ModelError, match=r"its prior_pipe draws a condition for each sample"):
        fk.steer(model, REWARD, particles=4)


def test_a_call_that_sets_how_its_network_attends_leaves_the_user_s_network_alone():
    torch.manual_seed(0)
    usual = stable_diffusion()
    usual.set_progress_bar_config(disable=True)
    pipe = diffusers.StableDiffusionPAGPipeline(
        **usual.components, requires_safety_checker=False, pag_applied_layers=["mid"]
    )
    pipe.set_progress_bar_config(disable=True)
    model = fk.Diffusion.from_pipeline(pipe, STEPS).prompt("a cat", pag_scale=2.0, **SIZE)
    options = {"num_inference_steps": STEPS, "num_images_per_prompt": 2, "output_type": "latent", **SIZE}
    processors, plain = dict(usual.unet.attn_processors), usual("a cat", generator=plain_noise(2), **options).images
    steps = smc(model, fk.reward(bright, 0.0, batch=True), n=2, resample=schemes.never, rng=Streams(0))
    for last in steps:
        assert usual.unet.attn_processors == processors
        if last.t == 1:  # a call in the middle, by another pipeline with this network
            assert torch.equal(usual("a cat", generator=plain_noise(2), **options).images, plain)
    theirs = pipe("a cat", generator=plain_noise(2), pag_scale=2.0, eta=1.0, **options).images
    assert torch.equal(last.state.x, theirs) and not torch.equal(theirs, plain)


# --- the VAE ---------------------------------------------------------------------------------------------------------


def test_a_vae_that_overflows_is_copied_in_single_precision_and_stays_in_half():
    pipe = stable_diffusion()
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pipe.vae.half()
    rounded = copy.deepcopy(pipe.vae).float()
    wanted = decoder_of(_with_vae(pipe, rounded), SIZE)(latents)
    pipe.vae.register_to_config(force_upcast=True)
    tensors = dict(pipe.vae.state_dict(keep_vars=True))
    decoder = decoder_of(pipe, SIZE)
    found = decoder(latents.half())
    assert found.dtype == torch.float32 and torch.allclose(found, wanted, atol=2e-3)
    assert torch.equal(decoder(latents), wanted), "nothing is rounded but the latents and the weights"
    assert all(tensor is tensors[key] for key, tensor in pipe.vae.state_dict(keep_vars=True).items())
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert decoder._vae.encoder is None


def _with_vae(pipe, vae):
    mine = copy_pipeline(pipe)
    vae.register_to_config(force_upcast=False)
    mine.vae = vae
    return mine


def test_a_copy_of_a_vae_is_on_its_tensors_and_calls_its_hooks():
    pipe, _, _ = made("wan")
    calls = []
    handle = pipe.vae.decoder.register_forward_hook(lambda *_: calls.append(1) and None)
    mine = copy_vae(pipe.vae)
    own = dict(pipe.vae.named_parameters())
    assert mine is not pipe.vae and all(tensor is own[key] for key, tensor in mine.named_parameters())
    found = dict(vars(pipe.vae))
    decoder_of(pipe, SIZE)(torch.zeros(1, 16, 2, 2, 2))
    assert calls and dict(vars(pipe.vae)) == found
    handle.remove()


class Uncopied(torch.nn.Module):
    def __deepcopy__(self, memo):
        raise TypeError("no copies")


def test_a_vae_that_cannot_be_copied_is_used_itself():
    pipe = stable_diffusion()
    pipe.vae.post_quant_conv.extra = Uncopied()
    assert copy_vae(pipe.vae) is pipe.vae


# --- greenlets belong to threads -------------------------------------------------------------------------------------


def in_thread(f):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(f).result()


def test_a_run_cannot_go_on_in_another_thread():
    _, model, _ = made("ddim")
    steps = smc(model, REWARD, n=2, resample=schemes.never, rng=Streams(0))
    in_thread(lambda: next(steps))
    with pytest.raises(ModelError, match="in the thread that has started it"):
        list(steps)


def test_a_run_that_another_thread_drops_is_unwound_in_silence():
    _, model, _ = made("ddim")
    held = [smc(model, REWARD, n=2, resample=schemes.never, rng=Streams(0))]
    next(held[0])

    def drop():
        held.clear()
        gc.collect()
        return torch.is_grad_enabled()

    with warnings.catch_warnings():
        warnings.simplefilter("error", pytest.PytestUnraisableExceptionWarning)
        assert in_thread(drop) and torch.is_grad_enabled()
        *_, last = smc(model, REWARD, n=2, resample=schemes.never, rng=Streams(0))
    assert last.t == STEPS - 1 and torch.is_grad_enabled()


def test_a_stream_of_a_pipeline_ends_with_the_result_of_steer():
    _, model, _ = made("ddim")
    wanted, stream = outcome(model, 4), fk.stream(model, REWARD, particles=3, seed=4)
    assert [step.t for step in stream] == list(range(STEPS))
    found = stream.result
    assert same((found.log_evidence, found.log_weights, torch.stack(list(found.samples))), wanted)


def test_a_stream_of_a_pipeline_that_another_thread_goes_on_with_is_told():
    _, model, _ = made("ddim")
    stream = fk.stream(model, REWARD, particles=2, seed=0)
    assert in_thread(lambda: next(stream).t) == 0
    with pytest.raises(ModelError, match="in the thread that has started it") as caught:
        next(stream)
    assert len(caught.value.partial.samples) == 2


@pytest.mark.usefixtures("cores")
def test_pipelines_are_awaited_and_streamed_on_an_event_loop():
    _, model, _ = made("ddim")
    wanted = in_one_core(lambda: [outcome(model, seed) for seed in range(3)])

    async def stream(seed):
        async with fk.stream_async(model, REWARD, particles=3, seed=seed) as found:
            async for _ in found:
                await asyncio.sleep(0)
        return found.result

    async def main():
        runs = [fk.steer_async(model, REWARD, particles=3, seed=seed) for seed in range(3)]
        return await asyncio.gather(*runs, *map(stream, range(3)))

    torch.set_num_threads(1)
    for seed, found in enumerate(asyncio.run(main())):
        here = found.log_evidence, found.log_weights, torch.stack(list(found.samples))
        assert same(here, wanted[seed % 3])


def in_one_core(f):
    with threads(1) as pool:
        return pool.submit(f).result()
