"""Rewards that are async, slow, remote or fail: what is asked at once, for how long, how often, and what is said."""

from __future__ import annotations

import asyncio
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.errors import PotentialError
from feynkac.potentials import constraint, process_reward, reward
from feynkac.potentials.rewards import calling

NONE = -np.inf


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between tries."""
    monkeypatch.setattr(calling, "PAUSE", 0.0)


class Meter:
    """How many calls there are at once: each waits until `wanted` have come together, and no longer than 5 s."""

    def __init__(self, wanted: int) -> None:
        self.now = self.most = 0
        self._lock, self._wanted, self._met = threading.Lock(), wanted, threading.Event()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            if self.now == self._wanted:
                self._met.set()

    def __exit__(self, *error: Any) -> None:
        with self._lock:
            self.now -= 1

    def wait(self) -> None:
        assert self._met.wait(5.0), "calls did not run at once"


def test_so_many_calls_run_in_threads_at_once_and_no_more(population: Any) -> None:
    meter = Meter(3)

    def judge(text: str) -> float:
        with meter:
            meter.wait()
            return float(text)

    texts = [str(i) for i in range(7)]
    scores = reward(judge, workers=3).final(population(texts), np.arange(7))
    assert scores.tolist() == [0, 1, 2, 3, 4, 5, 6], "in the order of the texts"
    assert meter.most == 3


def test_so_many_coroutines_run_at_once_and_no_more(population: Any) -> None:
    for workers, most in ((4, 4), (None, calling.AT_ONCE)):
        running, seen, met = 0, [], asyncio.Event()

        async def judge(text: str, most: int = most, seen: list[int] = seen, met: asyncio.Event = met) -> float:
            nonlocal running
            running += 1
            seen.append(running)
            if running == most:
                met.set()
            await asyncio.wait_for(met.wait(), 5.0)
            running -= 1
            return float(text)

        rows = np.arange(20)
        scores = reward(judge, workers=workers).final(population([str(i) for i in rows]), rows)
        assert scores.tolist() == rows.tolist() and max(seen) == most


def test_coroutines_are_awaited_where_a_loop_runs_already(population: Any) -> None:
    """As in a notebook, or in a server."""

    async def judge(text: str) -> float:
        await asyncio.sleep(0)
        return len(text)

    async def main() -> list[float]:
        return reward(judge).final(population(["a", "bb"]), np.arange(2)).tolist()

    assert asyncio.run(main()) == [1, 2]


def test_one_client_serves_all_calls_of_a_process(population: Any) -> None:
    """What a coroutine keeps, such as a client or a lock, belongs to the loop on which it was first used."""
    loops, lock = set(), asyncio.Lock()

    async def judge(text: str) -> float:
        async with lock:
            await asyncio.sleep(0)
            loops.add(asyncio.get_running_loop())
        return 1.0

    for _ in range(3):
        reward(judge).final(population(["a", "b"]), np.arange(2))
    assert len(loops) == 1


def test_an_async_function_of_all_texts_is_awaited_once(population: Any) -> None:
    asked = []

    async def judge(texts: list[str]) -> Any:
        asked.append(texts)
        return np.array([len(text) for text in texts])

    assert reward(judge, batch=True).final(population(["a", "bb", "a"]), np.arange(3)).tolist() == [1, 2, 1]
    assert asked == [["a", "bb"]]


def test_a_function_that_awaits_for_some_texts_only_is_awaited(population: Any) -> None:
    async def later(text: str) -> float:
        return 2.0

    mixed = reward(lambda text: later(text) if text == "b" else 1.0)
    assert mixed.final(population(["a", "b"]), np.arange(2)).tolist() == [1, 2]
    assert mixed.final(population(["b", "a"]), np.arange(2)).tolist() == [2, 1]


def test_an_async_constraint_is_awaited(population: Any) -> None:
    async def holds(text: str) -> bool:
        return text == "a"

    assert constraint(holds).final(population(["a", "b"]), np.arange(2)).tolist() == [0, NONE]


def test_a_failure_in_a_thread_keeps_its_traceback_and_names_the_text(population: Any) -> None:
    def inner() -> float:
        raise ConnectionError("no route")

    def judge(text: str) -> float:
        return inner() if text == "bad" else 1.0

    async def later(text: str) -> float:
        return judge(text)

    state, rows = population(["good", "bad"]), np.arange(2)
    for potential in (reward(judge, workers=2), reward(later), reward(judge)):
        with pytest.raises(
            PotentialError, match="at the end, row 1, text 'bad', raised ConnectionError: no route"
        ) as e:
            potential.final(state, rows)
        assert isinstance(e.value.__cause__, ConnectionError)
        assert "inner" in [frame.name for frame in traceback.extract_tb(e.value.__cause__.__traceback__)]


def never(text: str) -> float:
    if text == "bad":
        threading.Event().wait(20.0)
    return 1.0


async def never_awaited(text: str) -> float:
    if text == "bad":
        await asyncio.Event().wait()
    return 1.0


async def never_cancelled(text: str) -> float:
    while text == "bad":
        try:
            await asyncio.sleep(20.0)
        except asyncio.CancelledError:
            text = "swallowed"
            await asyncio.sleep(2.0)
    return 1.0


@pytest.mark.parametrize("f", [never, never_awaited, never_cancelled])
def test_what_takes_too_long_is_an_error_that_names_the_text(population: Any, f: Any) -> None:
    state, rows, start = population(["good", "bad"]), np.arange(2), time.monotonic()
    with pytest.raises(PotentialError, match=r"row 1, text 'bad', raised TimeoutError: no answer within 0\.1 s"):
        reward(f, timeout=0.1, workers=2).final(state, rows)
    assert time.monotonic() - start < 2.0
    killing = reward(f, timeout=0.1, workers=2, on_error="kill")
    assert killing.final(state, rows).tolist() == [1, NONE]


def test_a_coroutine_that_blocks_the_loop_is_told_and_leaves_a_loop_for_others(population: Any) -> None:
    async def blocks(text: str) -> float:
        time.sleep(2.5)
        return 1.0

    async def good(text: str) -> float:
        return 1.0

    state, rows = population(["a"]), np.arange(1)
    with pytest.raises(PotentialError, match=r"'reward\(blocks\)' waits without await.*give workers="):
        reward(blocks, timeout=0.05, on_error="kill").final(state, rows)
    assert reward(good, timeout=5.0).final(state, rows).tolist() == [1]


class Flaky:
    """Fails so many times for each text, and then gives 1."""

    __name__ = "flaky"

    def __init__(self, failures: int) -> None:
        self.failures, self.asked = failures, dict[str, int]()

    def __call__(self, text: str) -> float:
        self.asked[text] = self.asked.get(text, 0) + 1
        if self.asked[text] <= self.failures:
            raise ConnectionError("busy")
        return 1.0


def test_a_failed_call_is_made_again(population: Any, at_once: None) -> None:
    state, rows = population(["a", "b"]), np.arange(2)
    for workers in (None, 2):
        f = Flaky(3)
        assert reward(f, on_error="retry", workers=workers).final(state, rows).tolist() == [1, 1]
        assert f.asked == {"a": 4, "b": 4}
        with pytest.raises(PotentialError, match="raised ConnectionError at each of 4 tries: busy"):
            reward(Flaky(4), on_error="retry", workers=workers).final(state, rows)
    with pytest.raises(PotentialError, match="at each of 2 tries"):
        reward(Flaky(2), retries=1).final(state, rows)
    assert reward(Flaky(2), retries=1, on_error="kill").final(state, rows).tolist() == [NONE, NONE]
    assert reward(Flaky(2), retries=2, on_error="kill").final(state, rows).tolist() == [1, 1]


def test_an_async_function_is_tried_again_and_so_is_one_of_all_texts(population: Any, at_once: None) -> None:
    one, many = Flaky(1), Flaky(1)

    async def later(text: str) -> float:
        return one(text)

    state, rows = population(["a", "b"]), np.arange(2)
    assert reward(later, retries=1).final(state, rows).tolist() == [1, 1]
    batch = reward(lambda texts: [many("all")] * len(texts), batch=True, retries=1)
    assert batch.final(state, rows).tolist() == [1, 1]


def test_pauses_double(population: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(calling, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    monkeypatch.setattr(calling, "_LOOK", 100.0)
    reward(Flaky(3), on_error="retry").final(population(["a"]), np.arange(1))
    assert [seconds for seconds in slept if seconds] == [1.0, 2.0, 4.0]


def test_what_is_no_score_is_an_error_and_no_failure_that_kills(population: Any) -> None:
    for value in (float("nan"), None):
        with pytest.raises(PotentialError, match="returned"):
            reward(lambda text, value=value: value, on_error="kill").final(population(["a"]), np.arange(1))


def test_a_state_without_memory_cannot_say_what_was_killed(population: Any) -> None:
    state = population(["a"])
    del state.memory
    with pytest.raises(PotentialError, match=r"says what it killed.*on_error='raise'"):
        reward(Flaky(9), on_error="kill").final(state, np.arange(1))


def test_a_result_warns_of_what_was_killed_and_its_target_has_none_of_it(tiny_lm: Any) -> None:
    """A function that fails for texts with an a: the posterior is that under the constraint of no a."""

    def judge(text: str) -> float:
        if "a" in text:
            raise ConnectionError("busy")
        return 0.5 * len(text)

    lm = tiny_lm("a", "b")
    task = lm.prompt(tokens=[1], max_tokens=3)
    allowed = fk.constraint(lambda text: "a" not in text)
    truth = fk.steer(task, allowed, fk.reward(lambda text: 0.5 * len(text)), algorithm="exact")
    found = fk.steer(task, fk.reward(judge, on_error="kill", every="end"), algorithm="exact")
    assert found.log_evidence == pytest.approx(truth.log_evidence, abs=1e-12)
    said = r"'reward\(judge\)' killed where it raised ConnectionError: such samples have no weight in the target"
    assert any(re.match(said, warning) for warning in found.warnings)
    other, killing = lm.prompt(tokens=[2], max_tokens=3), fk.reward(judge, on_error="kill")
    one, two = fk.steer([task, other], killing, particles=32, seed=0)
    assert all(sum("ConnectionError" in warning for warning in each.warnings) == 1 for each in (one, two))
    gibbs = fk.steer(task, fk.reward(judge, on_error="kill"), particles=16, sweeps=2, algorithm="gibbs", seed=0)
    assert sum("ConnectionError" in warning for warning in gibbs.warnings) == 1
    quiet = fk.steer(task, fk.reward(len, on_error="kill"), particles=4, seed=0)
    assert not any("killed" in warning for warning in quiet.warnings)


def test_a_death_by_failures_says_so(tiny_lm: Any) -> None:
    task = tiny_lm("a", "b").prompt(tokens=[1], max_tokens=3)
    with pytest.raises(fk.AllParticlesDied, match=r"'reward\(flaky\)' rejects .*raised ConnectionError"):
        fk.steer(task, fk.reward(Flaky(10**9), on_error="kill", retries=0), particles=4, seed=0)


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """A process that a shell started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize("f", [never, never_awaited])
def test_ctrl_c_ends_promptly_and_nothing_goes_on(population: Any, f: Any) -> None:
    started = []

    def slow(text: str) -> float:
        started.append(text)
        return never("bad")

    potential = reward(slow if f is never else f, workers=2)
    state, rows = population(["bad", "bad2", "bad3"] if f is never else ["bad"]), np.arange(3 if f is never else 1)
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    timer.start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        potential.final(state, rows)
    assert time.monotonic() - begin < 3.0
    assert len(started) == (2 if f is never else 0), "what had not begun does not begin"
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("feynkac reward"))


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_in_a_slow_reward_leaves_the_particles_there_are(tiny_lm: Any) -> None:
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])

    def slow(text: str) -> float:
        if len(text) > 1:
            timer.start()
            threading.Event().wait(20.0)
        return 0.0

    task = tiny_lm("a", "b").prompt(tokens=[1], max_tokens=4)
    result = fk.steer(task, reward(slow, workers=1), particles=4, seed=0)
    assert not result.complete and len(result.samples) == 4


def test_a_process_ends_though_a_call_and_a_loop_have_not() -> None:
    script = """
import threading, time
import numpy as np
from feynkac.potentials.rewards.calling import Calls
from feynkac.potentials.rewards.scoring import Scorer

async def later(text): return 1.0
def never(text): threading.Event().wait(60.0)

Scorer(later, "later", calls=Calls(asynchronous=True)).score_texts(["a"], None, np.arange(1))
print(Calls(timeout=0.05).run(never, [("a",)])[0].cause)
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0 and done.stdout == "no answer within 0.05 s\n" and done.stderr == ""
    assert time.monotonic() - start < 40.0


def test_a_reward_that_is_called_in_threads_travels_to_other_processes(population: Any) -> None:
    for potential in (reward(len, workers=2, timeout=5.0), reward(never_awaited), process_reward(len)):
        copy = pickle.loads(pickle.dumps(potential))
        assert copy.final(population(["a"]), np.arange(1)).tolist() == [1]


def test_what_is_only_made_again_stays_in_the_thread_of_the_caller(population: Any) -> None:
    where = set()

    def judge(text: str) -> float:
        where.add(threading.current_thread())
        return 1.0

    reward(judge, retries=2).final(population(["a", "b"]), np.arange(2))
    assert where == {threading.current_thread()}


def test_context_variables_reach_threads_and_coroutines(population: Any) -> None:
    from contextvars import ContextVar

    who: ContextVar[float] = ContextVar("who", default=0.0)

    async def later(text: str) -> float:
        return who.get()

    who.set(3.0)
    for potential in (reward(lambda text: who.get(), workers=2), reward(later)):
        assert potential.final(population(["a"]), np.arange(1)).tolist() == [3]


def test_a_coroutine_that_exits_does_not_take_the_loop_along(population: Any) -> None:
    async def exits(text: str) -> float:
        raise SystemExit(1)

    async def good(text: str) -> float:
        return 1.0

    state, rows = population(["a"]), np.arange(1)
    with pytest.raises(PotentialError, match="SystemExit inside of a coroutine"):
        reward(exits).final(state, rows)
    assert reward(good, timeout=5.0).final(state, rows).tolist() == [1]


def test_a_slow_reward_of_images_gives_what_it_gives_at_once() -> None:
    torch = pytest.importorskip("torch")
    from feynkac.potentials.rewards.calling import Calls
    from feynkac.potentials.rewards.scoring import Scorer

    async def later(image: Any) -> Any:
        return image.sum()

    x = torch.arange(6.0).reshape(3, 2).requires_grad_()
    for f, calls in ((later, Calls(asynchronous=True)), (lambda image: image.sum(), Calls(workers=2))):
        scores = Scorer(f, "f", calls=calls).score_tensors(x, None, np.arange(3))
        assert scores.tolist() == [1, 5, 9] and torch.autograd.grad(scores.sum(), x)[0].eq(1).all()
        with torch.no_grad():
            assert not Scorer(f, "f", calls=calls).score_tensors(x, None, np.arange(3)).requires_grad


def test_a_batch_that_is_too_large_for_the_memory_is_asked_about_in_parts(tiny_lm) -> None:
    sizes = []

    def count(texts: list[str]) -> list[float]:
        sizes.append(len(texts))
        if len(texts) > 2:
            raise MemoryError("none left")
        return [float(len(text)) for text in texts]

    task = tiny_lm("a", "b", seed=3).prompt("a", max_tokens=4)
    found = fk.steer(task, fk.reward(count, batch=True), particles=16, seed=1)
    wanted = fk.steer(task, fk.reward(len), particles=16, seed=1)
    assert found.samples == wanted.samples and found.log_evidence == wanted.log_evidence
    assert max(sizes) > 2 and len([size for size in sizes if size > 2]) <= 3
    assert len([said for said in found.warnings if "memory ran out in 'reward(count)'" in said]) == 1
