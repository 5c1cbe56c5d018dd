"""Programs over one language model in several threads at once give bit for bit what they give alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import feynkac as fk
from feynkac.programs import program
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


def test_one_language_model_in_three_threads(tiny_lm) -> None:
    lm, together = tiny_lm("a", "b", "e"), Barrier(THREADS)

    def run(seed: int) -> tuple[Any, ...]:
        result = fk.steer(write(lm), particles=8, seed=seed, resampler=multinomial, progress=False)
        return result.samples, result.log_weights.tolist(), result.log_evidence, result.forwarded_tokens

    def work(thread: int) -> list[Any]:
        together.wait()
        return [run(seed) for seed in range(thread * RUNS, (thread + 1) * RUNS)]

    alone = [run(seed) for seed in range(THREADS * RUNS)]
    with ThreadPoolExecutor(THREADS) as pool:
        assert [result for results in pool.map(work, range(THREADS)) for result in results] == alone
