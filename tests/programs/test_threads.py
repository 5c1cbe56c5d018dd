"""Programs in several threads at once give bit for bit what they give alone, and leave the process as it was."""

from __future__ import annotations

import asyncio
import io
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.programs import Bernoulli, Normal, program
from feynkac.programs.compat.llamppl import CachedCausalLM, LMContext, Model, smc_standard
from feynkac.smc.resample import multinomial

THREADS, RUNS = 3, 16


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    """Threads take turns after microseconds, so that whatever can collide does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def in_threads(run: Callable[[int], Any]) -> list[Any]:
    """`run(seed)` of 48 seeds, in 3 threads that begin together and make 16 runs each."""
    together = Barrier(THREADS)

    def work(thread: int) -> list[Any]:
        together.wait()
        return [run(seed) for seed in range(thread * RUNS, (thread + 1) * RUNS)]

    with ThreadPoolExecutor(THREADS) as pool:
        return [result for results in pool.map(work, range(THREADS)) for result in results]


def figures(model: Any, seed: int) -> tuple[Any, ...]:
    result = fk.steer(model, particles=8, seed=seed, resampler=multinomial, ess_threshold=1.0, progress=False)
    return result.samples, result.log_weights.tolist(), result.log_evidence


class OfPython:
    def sample(self):
        return random.random() + random.gauss(0.0, 1.0)

    def log_prob(self, value):
        return 0.0


class OfNumpy(OfPython):
    def sample(self):
        return float(np.random.normal() + np.random.uniform())  # noqa: NPY002


class OfTorch(OfPython):
    def sample(self):
        import torch

        return float(torch.randn(3).sum())


@program
def foreign(p):
    import torch

    total = []
    for source in (OfPython(), OfNumpy(), OfTorch(), torch.distributions.Normal(0.0, 1.0)):
        for _ in range(2):
            total.append(float(p.sample(source)))
            p.factor(0.5 * total[-1])
    return tuple(total), float(p.rng.normal())


def test_global_generators_are_each_draws_own() -> None:
    import torch

    alone = [figures(foreign(), seed) for seed in range(THREADS * RUNS)]
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    assert in_threads(lambda seed: figures(foreign(), seed)) == alone
    assert random.getstate() == states[0] and str(np.random.get_state()) == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


@program
def talk(p, name):
    x = 0.0
    for i in range(4):
        x = p.sample(Normal(x, 1.0))
        print(f"{name} {i}:", x)
        p.observe(Bernoulli(0.3), i % 2 == 0)
        p.factor(0.3 * x)
    return x


def test_what_is_printed_is_whole_and_the_stream_is_put_back(monkeypatch) -> None:
    def measure(each: Callable[[Callable[[int], Any]], list[Any]]) -> tuple[list[Any], list[str]]:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stream)
        found = each(lambda seed: figures(talk(f"run {seed}"), seed))
        assert sys.stdout is stream
        return found, sorted(stream.getvalue().splitlines())

    alone = measure(lambda run: [run(seed) for seed in range(THREADS * RUNS)])
    assert len(alone[1]) == THREADS * RUNS * 8 * 4
    for _ in range(3):
        assert measure(in_threads) == alone


def test_runs_in_a_run_are_runs_of_their_own() -> None:
    @program
    def outer(p):
        p.sample(Bernoulli(0.5))
        result = p.once(fk.steer, talk("inner"), particles=2, seed=int(p.rng.integers(2**62)), progress=False)
        return tuple(result.samples)

    alone = [figures(outer(), seed) for seed in range(THREADS * RUNS)]
    assert in_threads(lambda seed: figures(outer(), seed)) == alone


# --- over one language model


@program
def write(p, lm):
    text = lm.context("ab")
    word = p.sample(text.gen(regex="[ab]{1,3}"))
    text.observe_text("e")
    while not text.ended and len(text) < 6:
        p.observe(text.mask(["a", "e"], or_end=True), True)
        p.sample(text.next_token())
    return word, str(text), text.ended


def test_one_language_model_in_three_threads(tiny_lm) -> None:
    lm = tiny_lm("a", "b", "e")

    def run(seed: int) -> tuple[Any, ...]:
        result = fk.steer(write(lm), particles=8, seed=seed, resampler=multinomial, progress=False)
        return result.samples, result.log_weights.tolist(), result.log_evidence, result.forwarded_tokens

    alone = [run(seed) for seed in range(THREADS * RUNS)]
    assert in_threads(run) == alone


class Letters(Model):
    def __init__(self, lm):
        super().__init__()
        self.context = LMContext(lm, "ab")

    async def step(self):
        await self.observe(self.context.mask_dist({1, 3}), True)
        await self.sample(self.context.next_token())
        if self.context.token_count == 4:
            self.finish()


def test_programs_of_llamppl_in_three_threads(tiny_lm) -> None:
    lm = CachedCausalLM(tiny_lm("a", "b", "e"))

    def run(seed: int) -> tuple[list[str], float]:
        particles = asyncio.run(smc_standard(Letters(lm), 8, seed=seed))
        return [str(particle.context) for particle in particles], particles.log_evidence

    alone = [run(seed) for seed in range(THREADS * RUNS)]
    for (texts, log_z), (texts_alone, log_z_alone) in zip(in_threads(run), alone, strict=True):
        assert texts == texts_alone
        assert abs(log_z - log_z_alone) < 1e-5  # runs share a cache, and so batches: float32 rounds otherwise
