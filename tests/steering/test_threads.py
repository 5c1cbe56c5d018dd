"""Eight threads on one model, with runs of all kinds at once: each gives bit for bit what it gives alone."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import feynkac as fk
from tests.steering.runs import assert_same, count, walk

THREADS, ROUNDS = 8, 2


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    """Threads take turns after microseconds, so that whatever can collide does; torch sums in one order."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    torch.set_num_threads(1)
    yield
    sys.setswitchinterval(before)


class Shared:
    """What all threads use: one model, its prompts, constraints, rewards and programs."""

    def __init__(self, tiny_lm: Any) -> None:
        self.lm = lm = tiny_lm("a", "b", "e", "1", "[", "]", ",")
        self.prompt, self.other = lm.prompt("ab" * 9, max_tokens=8), lm.prompt("ab" * 9 + "b", max_tokens=6)
        self.regex, self.reward = fk.regex("(?:[ab]{2})*"), fk.reward(count)
        self.json = fk.json_schema({"type": "array", "items": {"enum": [1, 11]}, "maxItems": 3})
        self.choices, self.program = fk.choices(["ab", "ba", "abab"]), walk(lm, 5)

    def jobs(self) -> dict[str, Callable[[int], Any]]:
        """Runs of all kinds, each by its seed."""

        def steer(*what: Any, **options: Any) -> Callable[[int], Any]:
            return lambda seed: fk.steer(*what, seed=seed, **{"particles": 6, "on_death": "return", **options})

        def stream(seed: int) -> Any:
            with fk.stream(self.prompt, self.reward, particles=6, seed=seed) as found:
                for step in found:
                    assert len(step.texts) == 6
                    if step.t == 4:
                        break
            return found.result

        def awaited(seed: int) -> Any:
            return asyncio.run(fk.steer_async(self.prompt, self.regex, particles=6, seed=seed, on_death="return"))

        return {
            "reward": steer(self.prompt, self.reward),
            "regex": steer(self.prompt, self.regex),
            "json": steer(self.prompt, self.json),
            "choices": steer(self.other, self.choices),
            "problems": steer([self.prompt, self.other], self.regex),
            "program": steer(self.program, self.reward),
            "programs": steer([self.program, walk(self.lm, 3)], self.reward),
            "gibbs": steer(self.other, self.reward, algorithm="gibbs", sweeps=3),
            "optimal": steer(self.other, self.reward, algorithm="optimal"),
            "beam": steer(self.other, self.reward, algorithm="beam"),
            "exact": steer(self.other, self.choices, algorithm="exact"),
            "moves": steer(self.prompt, self.reward, moves=fk.redraw(2)),
            "budget": steer(self.prompt, self.reward, budget=fk.Budget(calls=4)),
            "pieces": steer(self.prompt, self.reward, islands=2, executor=fk.LocalExecutor(2)),
            "expert": steer(self.other, fk.expert(self.lm.prompt("ba"))),
            "stream": stream,
            "awaited": awaited,
        }


def test_runs_of_all_kinds_at_once_are_those_run_alone(tiny_lm) -> None:
    alone, shared = Shared(tiny_lm).jobs(), Shared(tiny_lm)
    work = [(name, seed) for name in alone for seed in range(ROUNDS)]
    wanted = {(name, seed): alone[name](seed) for name, seed in work}
    jobs, start = shared.jobs(), threading.Barrier(THREADS)

    def run(thread: int) -> list[tuple[tuple[str, int], Any]]:
        mine = random.Random(thread).sample(work, len(work) // 2)
        start.wait()
        return [((name, seed), jobs[name](seed)) for name, seed in mine]

    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(run, range(THREADS)):
            for key, result in found:
                try:
                    assert_same(result, wanted[key])
                except AssertionError as different:
                    raise AssertionError(f"{key}: {different}") from different


def test_a_run_that_fails_or_is_stopped_disturbs_no_other(tiny_lm) -> None:
    lm = tiny_lm(eos=())
    task = lm.prompt("ab" * 9, max_tokens=12)
    wanted, start = fk.steer(task, fk.reward(count), particles=6, seed=0), threading.Barrier(THREADS)

    def fail(text: str) -> float:
        if len(text) == 5:
            raise RuntimeError("no texts of five letters")
        return 0.0

    def interrupt(step: Any) -> None:
        if step.t == 6:
            raise KeyboardInterrupt

    def run(thread: int) -> Any:
        start.wait()
        for seed in range(4):
            if thread % 4 == 1:
                with pytest.raises(fk.PotentialError):
                    fk.steer(task, fk.reward(fail), particles=6, seed=seed)
            elif thread % 4 == 2:
                assert not fk.steer(task, particles=6, seed=seed, observers=[interrupt]).complete
            elif thread % 4 == 3:
                next(fk.stream(task, particles=6, seed=seed))
            else:
                assert_same(fk.steer(task, fk.reward(count), particles=6, seed=0), wanted)
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(run, range(THREADS)))
