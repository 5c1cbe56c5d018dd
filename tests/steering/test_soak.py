"""Many small runs in one process: nothing of a run is left when it is over.

Whatever a run left behind would be at least one object, thread or open file for each run. So between two numbers of
runs there must be fewer new ones than runs; and of memory outside of Python's objects less than a page for each.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import feynkac as fk

PAGE = 4096
GIBBS: dict[str, Any] = {"algorithm": "gibbs", "sweeps": 2}


def run_prompt(lm, i: int) -> None:
    """A constraint of its own for each run, by each engine, and functions that are called in every way."""

    async def later(text: str) -> float:
        return float(len(text))

    task = lm.prompt("a", max_tokens=3)
    kinds = [
        fk.regex(f"[ab]*|e{{{i % 1000}}}"),
        fk.json_schema({"type": "string", "maxLength": i}),
        fk.grammar(f'start: "a"* | "{i}"'),
        fk.grammar(f'start: "a"* | "{i}"', engine="llguidance"),
        fk.choices(["a", f"{i}"]),
        fk.lazy(lambda text: len(text) < 3, draws=2),
        fk.reward(later),
        fk.reward(len, workers=2),
        fk.reward(len, timeout=5.0),
        fk.expert(lm.prompt("b", max_tokens=3)),
    ]
    fk.steer(task, kinds[i % len(kinds)], particles=2, seed=i, on_death="return")


def run_algorithms(lm, i: int) -> None:
    """Every algorithm, several problems, islands, moves, an executor; and all that a result is asked."""
    one, two = lm.prompt("a", max_tokens=3), lm.prompt("b", max_tokens=2)
    kinds = [
        GIBBS,
        {"algorithm": "beam"},
        {"algorithm": "optimal"},
        {"algorithm": "best_of_n"},
        {"islands": 2},
        {"moves": fk.redraw(1)},
        {"executor": fk.LocalExecutor(jobs=2)},
    ]
    for result in fk.steer(
        [one, (two, fk.regex("[ab]*"))], fk.reward(len), particles=4, seed=i, on_death="return", **kinds[i % len(kinds)]
    ):
        result.summary()
        result.posterior()
    lm.score("a", ["a", "b"])


def run_fault(lm, i: int) -> None:
    """Runs that end in an error, whose partial result holds them, or that are stopped."""

    def raises(text: str) -> float:
        raise ValueError("mine")

    task = lm.prompt("a", max_tokens=3)
    with pytest.raises(fk.FeynkacError):
        fk.steer(task, [fk.reward(raises), fk.regex("c+"), fk.reward(raises, workers=2)][i % 3], particles=4, seed=i)
    fk.steer(task, particles=2, seed=i, observers=[lambda step: step.t == 1])


@fk.program
def branching(p, lm):
    text = lm.context("a")
    token = p.sample(text.next_token())
    p.factor(0.5 if str(token) == "a" else 0.0)
    other = text.fork()
    if text.ended:
        return str(text)
    return p.sample(text.gen(regex="[ab]*", max_tokens=2)) + p.sample(other.gen(max_tokens=1))


def run_program(lm, i: int) -> None:
    fk.steer(branching(lm), particles=4, seed=i, ess_threshold=1.0, **({}, GIBBS)[i % 2])


def run_diffusion(lm, i: int) -> None:
    from feynkac.models import diffusion as fd

    prior = fd.GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], 0.2)
    sampler = fd.DiffusionSampler(prior, fd.ddpm(3), (2,), batch=2)
    fk.steer(sampler, fk.reward(lambda x: float(x.sum())), particles=4, seed=i, **({}, GIBBS)[i % 2])


@pytest.fixture(autouse=True)
def keep_no_records() -> Iterator[None]:
    """pytest holds on to what is logged."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


KINDS = {each.__name__: each for each in (run_prompt, run_algorithms, run_fault, run_program, run_diffusion)}


def measure() -> tuple[Counter[str], int, int, int]:
    """Objects by type, threads, open files, and bytes of memory."""
    for _ in range(3):
        gc.collect()
    kinds = Counter(type(each).__qualname__ for each in gc.get_objects())
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return kinds, threading.active_count(), len(os.listdir("/proc/self/fd")), resident


def check_nothing_is_left(run: Callable[[int], None], warm: int, runs: int) -> None:
    numbers = itertools.count()
    for _ in range(warm):
        run(next(numbers))
    measure()  # whatever a first look leaves behind
    kinds, threads, files, resident = measure()
    for _ in range(runs):
        run(next(numbers))
    kinds_after, threads_after, files_after, resident_after = measure()
    grown = {name: n for name, n in (kinds_after - kinds).items() if n >= runs // 10}
    assert not grown, f"left by {runs} runs: {grown}"
    assert sum(kinds_after.values()) - sum(kinds.values()) < runs
    assert threads_after <= threads and files_after <= files
    if runs >= 1000:  # with fewer, what other tests have left to the allocator is larger than a leak
        assert resident_after - resident < runs * PAGE, f"{resident_after - resident} bytes by {runs} runs"


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads the memory of a process from /proc")
@pytest.mark.parametrize("kind", KINDS)
def test_forty_runs_leave_nothing_behind(kind, tiny_lm, frozen) -> None:
    lm = tiny_lm("a", "b", "e", '"')
    check_nothing_is_left(lambda i: KINDS[kind](lm, i), warm=30, runs=40)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads the memory of a process from /proc")
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_runs_leave_nothing_behind(kind, tiny_lm, frozen) -> None:
    lm = tiny_lm("a", "b", "e", '"')
    check_nothing_is_left(lambda i: KINDS[kind](lm, i), warm=400, runs=2_000)
