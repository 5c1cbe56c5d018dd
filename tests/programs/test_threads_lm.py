"""Programs over one language model in several threads at once give what they give alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import feynkac as fk
from feynkac.programs import program
from feynkac.programs.compat.llamppl import CachedCausalLM, LMContext, Model, smc_standard
from feynkac.smc.resample import multinomial

THREADS, RUNS = 3, 16


@program
def write(p, lm):
    text = lm.context("ab")
    word = p.sample(text.gen(regex="[ab]{1,3}"))
    text.observe_text("e")
    while not text.ended and len(text) < 6:
        p.observe(text.mask(["a", "e"], or_end=True), True)
        p.sample(text.next_token())
    return word, str(text), text.ended


def in_threads(run: Callable[[int], Any]) -> list[Any]:
    """`run(seed)` of 48 seeds, in 3 threads that begin together and make 16 runs each."""
    together = Barrier(THREADS)

    def work(thread: int) -> list[Any]:
        together.wait()
        return [run(seed) for seed in range(thread * RUNS, (thread + 1) * RUNS)]

    with ThreadPoolExecutor(THREADS) as pool:
        return [result for results in pool.map(work, range(THREADS)) for result in results]


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
