"""Runs on an event loop: right, many at once in few threads, and over soon after they are cancelled."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.steering import asynchronous
from tests.steering.runs import KINDS, assert_same, count, make, read, walk


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_awaited_is_the_run_of_steer(tiny_lm, kind) -> None:
    model, potentials, options = make(kind, tiny_lm)
    options = {"particles": 8, "seed": 3, **options}
    wanted = fk.steer(model, *potentials, **options)
    found = asyncio.run(fk.steer_async(model, *potentials, **options))
    assert_same(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_is_awaited_is_the_stream(tiny_lm, kind) -> None:
    model, potentials, options = make(kind, tiny_lm)
    options = {"particles": 8, "seed": 3, **options}

    def tell(given: Any) -> list[Any]:
        moments = given if isinstance(given, list) else [given]
        return [(each.t, each.sweep, read(each.samples)) for each in moments]

    async def watch() -> tuple[list[Any], Any]:
        stream = fk.stream_async(model, *potentials, **options)
        return [tell(given) async for given in stream], stream.result

    seen, found = asyncio.run(watch())
    stream = fk.stream(model, *potentials, **options)
    assert seen == [tell(given) for given in stream]
    assert_same(found, stream.result)


def test_many_at_once_on_one_model_are_right_in_few_threads(tiny_lm, monkeypatch) -> None:
    monkeypatch.setattr(asynchronous, "AT_ONCE", 3)
    asynchronous._find_pool.cache_clear()
    lm, running, most = tiny_lm(), [0], [0]
    lock = threading.Lock()

    class Watch:
        inside = False

        def __call__(self, step: Any) -> None:
            with lock:
                running[0] += not self.inside
                self.inside = True
                most[0] = max(most[0], running[0])

        def close(self) -> None:
            with lock:
                running[0] -= self.inside

    def run(seed: int) -> dict[str, Any]:
        return {"particles": 4, "seed": seed, "observers": [Watch()]}

    tasks = [lm.prompt("ab"[: 1 + seed % 2], max_tokens=6) for seed in range(12)]

    async def main() -> list[fk.Result]:
        return await asyncio.gather(*(fk.steer_async(task, count, **run(seed)) for seed, task in enumerate(tasks)))

    found = asyncio.run(main())
    asynchronous._find_pool.cache_clear()
    for seed, (task, result) in enumerate(zip(tasks, found, strict=True)):
        assert_same(result, fk.steer(task, count, particles=4, seed=seed))
    assert 1 <= most[0] <= 3


def test_the_loop_goes_on_while_a_run_works(tiny_lm) -> None:
    async def main() -> int:
        run = asyncio.ensure_future(fk.steer_async(tiny_lm(eos=()).prompt("a", max_tokens=200), particles=8, seed=0))
        ticks = 0
        while not run.done():
            await asyncio.sleep(0.001)
            ticks += 1
        await run
        return ticks

    assert asyncio.run(main()) > 2


def test_context_variables_are_those_of_the_caller_and_stay_so(tiny_lm) -> None:
    name = contextvars.ContextVar("name", default="nobody")
    seen = set()

    def look(text: str) -> float:
        seen.add(name.get())
        name.set("the run")
        return 0.0

    async def main() -> str:
        name.set("the caller")
        await fk.steer_async(tiny_lm().prompt("a", max_tokens=3), fk.reward(look), particles=2, seed=0)
        return name.get()

    assert asyncio.run(main()) == "the caller" and "nobody" not in seen and "the caller" in seen


# --- cancelling ------------------------------------------------------------------------------------------------------


class Watched:
    """An observer that counts steps, and takes some time in each."""

    def __init__(self) -> None:
        self.steps, self.closed = 0, threading.Event()

    def __call__(self, step: Any) -> None:
        self.steps += 1
        time.sleep(0.01)

    def close(self) -> None:
        self.closed.set()


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_task_that_is_cancelled_ends_its_run_at_the_next_step_and_frees_it(tiny_lm, how) -> None:
    watched = Watched()
    task = tiny_lm(eos=()).prompt("a", max_tokens=400)
    held = weakref.ref(watched)

    async def main() -> None:
        run = asyncio.ensure_future(fk.steer_async(task, particles=2, seed=0, observers=[watched]))
        while watched.steps < 2:
            await asyncio.sleep(0.001)
        if how == "cancel":
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
        else:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.0):
                    await run

    asyncio.run(main())
    assert watched.closed.wait(20) and watched.steps < 200
    watched = None
    until = time.monotonic() + 20
    while held() is not None and time.monotonic() < until:
        time.sleep(0.01)
    assert held() is None


def test_a_run_that_waits_for_its_turn_can_be_cancelled(tiny_lm, monkeypatch) -> None:
    monkeypatch.setattr(asynchronous, "AT_ONCE", 1)
    asynchronous._find_pool.cache_clear()
    task, first, second = tiny_lm(eos=()).prompt("a", max_tokens=20), Watched(), Watched()

    async def main() -> fk.Result:
        running = asyncio.ensure_future(fk.steer_async(task, particles=2, seed=0, observers=[first]))
        waiting = asyncio.ensure_future(fk.steer_async(task, particles=2, seed=0, observers=[second]))
        while not first.steps:
            await asyncio.sleep(0.001)
        waiting.cancel()
        return await running

    assert asyncio.run(main()).complete and second.steps == 0
    asynchronous._find_pool.cache_clear()


def test_a_timeout_around_a_stream_leaves_what_there_is(tiny_lm) -> None:
    watched = Watched()
    task = tiny_lm(eos=()).prompt("a", max_tokens=400)

    async def main() -> fk.Result:
        async with fk.stream_async(task, particles=2, seed=0, observers=[watched]) as stream:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as limit:
                    async for step in stream:
                        if step.t == 1:
                            limit.reschedule(asyncio.get_running_loop().time() + 0.05)
        assert watched.closed.is_set()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        return stream.result

    found = asyncio.run(main())
    assert not found.complete and len(found.history.ess) == watched.steps < 400


def test_a_stream_that_is_left_early_ends(tiny_lm) -> None:
    watched = Watched()

    async def main() -> fk.Result:
        async with fk.stream_async(tiny_lm(eos=()).prompt("a", max_tokens=400), observers=[watched]) as stream:
            async for step in stream:
                if step.t == 2:
                    break
        return stream.result

    assert len(asyncio.run(main()).history.ess) == 3 and watched.closed.is_set() and watched.steps == 3


def test_a_stream_that_never_began_has_nothing_to_close(tiny_lm) -> None:
    async def main() -> None:
        stream = fk.stream_async(tiny_lm().prompt("a", max_tokens=4))
        with pytest.raises(fk.ArgumentError, match="no result yet"):
            _ = stream.result
        await stream.aclose()
        await stream.aclose()
        assert [step async for step in stream] == []

    asyncio.run(main())


# --- errors, and runs inside of runs ---------------------------------------------------------------------------------


def test_errors_arrive_where_the_run_is_awaited(tiny_lm) -> None:
    def fussy(text: str) -> float:
        if len(text) == 3:
            raise RuntimeError("no texts of three letters")
        return 0.0

    task = tiny_lm(eos=()).prompt("a", max_tokens=9)
    with pytest.raises(fk.PotentialError, match="fussy") as caught:
        asyncio.run(fk.steer_async(task, fk.reward(fussy), particles=4, seed=0))
    assert len(caught.value.partial.history.ess) == 2
    with pytest.raises(fk.ArgumentError, match="at least 1"):
        asyncio.run(fk.steer_async(task, particles=0))

    async def watch() -> None:
        async for _ in fk.stream_async(task, fk.reward(fussy), particles=4, seed=0):
            pass

    with pytest.raises(fk.PotentialError, match="fussy"):
        asyncio.run(watch())


def test_an_interrupt_inside_of_the_thread_keeps_the_particles(tiny_lm) -> None:
    def interrupt(step: Any) -> None:
        if step.t == 3:
            raise KeyboardInterrupt

    task, options = tiny_lm(eos=()).prompt("a", max_tokens=9), {"particles": 4, "seed": 0}
    found = asyncio.run(fk.steer_async(task, observers=[interrupt], **options))
    assert not found.complete and len(found.history.ess) == 4


def test_an_async_reward_may_itself_await_a_run(tiny_lm, monkeypatch) -> None:
    """Also where the outer runs hold all threads."""
    monkeypatch.setattr(asynchronous, "AT_ONCE", 2)
    asynchronous._find_pool.cache_clear()
    inner = tiny_lm("a", "b", seed=1).prompt("a", max_tokens=2)

    async def judged(text: str) -> float:
        result = await fk.steer_async(inner, particles=2, seed=len(text))
        return result.log_evidence + 0.1 * len(result.best)

    task = tiny_lm().prompt("a", max_tokens=3)

    async def main() -> list[fk.Result]:
        return await asyncio.gather(
            *(fk.steer_async(task, fk.reward(judged, every="end"), particles=2, seed=seed) for seed in range(4))
        )

    found = asyncio.run(asyncio.wait_for(main(), 60))
    asynchronous._find_pool.cache_clear()
    for seed, result in enumerate(found):
        assert_same(result, fk.steer(task, fk.reward(judged, every="end"), particles=2, seed=seed))


def test_a_program_that_awaits_a_run_is_refused_as_one_that_calls_steer(tiny_lm) -> None:
    inner = tiny_lm().prompt("a", max_tokens=2)

    @fk.program
    def nested(p):
        return asyncio.run(fk.steer_async(inner))

    with pytest.raises(fk.ProgramError, match="a program calls steer"):
        asyncio.run(fk.steer_async(nested()))


def test_a_budget_of_seconds_begins_with_the_run(tiny_lm, monkeypatch) -> None:
    """And not where it waits for a thread."""
    monkeypatch.setattr(asynchronous, "AT_ONCE", 1)
    asynchronous._find_pool.cache_clear()
    task, watched = tiny_lm(eos=()).prompt("a", max_tokens=20), Watched()

    async def main() -> list[fk.Result]:
        budget = fk.Budget(seconds=60)
        return await asyncio.gather(
            *(fk.steer_async(task, particles=2, seed=0, observers=[watched], budget=budget) for _ in range(2))
        )

    first, second = asyncio.run(main())
    asynchronous._find_pool.cache_clear()
    assert first.complete and second.complete and np.array_equal(first.log_weights, second.log_weights)


def test_programs_stream_from_a_thread_of_their_own(tiny_lm) -> None:
    task = walk(tiny_lm(), 5)

    async def watch(seed: int) -> fk.Result:
        stream = fk.stream_async(task, fk.reward(count), seed=seed)
        async for _ in stream:
            await asyncio.sleep(0)
        return stream.result

    async def main() -> list[fk.Result]:
        return await asyncio.gather(*map(watch, range(4)))

    for seed, found in enumerate(asyncio.run(main())):
        assert_same(found, fk.steer(task, fk.reward(count), seed=seed))
