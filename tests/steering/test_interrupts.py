"""Ctrl-C, once and twice, wherever it comes: what was computed is kept, and the next run is what it would have been."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from tests.steering.runs import assert_same, count


def press(*_: Any) -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_inside_of_a_reward_keeps_the_steps_before(tiny_lm) -> None:
    def late(text: str) -> float:
        if len(text) == 4:
            press()
        return 0.0

    found = fk.steer(tiny_lm(eos=()).prompt("a", max_tokens=9), fk.reward(late), particles=4, seed=0)
    assert not found.complete and len(found.history.ess) == 3


@pytest.mark.parametrize("options", [{"workers": 2}, {"timeout": 20.0}, {"workers": 3, "timeout": 20.0}])
def test_an_interrupt_inside_of_a_reward_in_a_thread_keeps_the_steps_before(tiny_lm, options) -> None:
    def late(text: str) -> float:
        if len(text) == 4:
            assert threading.current_thread() is not threading.main_thread()
            raise KeyboardInterrupt
        return 0.0

    found = fk.steer(tiny_lm(eos=()).prompt("a", max_tokens=9), fk.reward(late, **options), particles=4, seed=0)
    assert not found.complete and len(found.history.ess) == 3
    stream = fk.stream(tiny_lm(eos=()).prompt("a", max_tokens=9), fk.reward(late, **options), particles=4, seed=0)
    assert [step.t for step in stream] == [0, 1, 2] and not stream.result.complete


def test_ctrl_c_while_rewards_run_in_threads_does_not_wait_for_them(tiny_lm) -> None:
    leave = threading.Event()

    def hang(text: str) -> float:
        if len(text) == 3:
            threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
            leave.wait(30)
        return 0.0

    found = fk.steer(tiny_lm(eos=()).prompt("a", max_tokens=9), fk.reward(hang, workers=1), particles=1, seed=0)
    assert not leave.is_set() and not found.complete and len(found.history.ess) == 2
    leave.set()


class Shown(list):
    """Steps of a walk, which a second Ctrl-C interrupts while they are shown."""

    def __init__(self, steps: int, n: int, pressed: list[int]) -> None:
        super().__init__(range(n))
        self.steps, self.pressed = steps, pressed

    def fork(self, rows):
        return Shown(self.steps, len(rows), self.pressed)

    def samples(self, rows):
        self.pressed.append(self.steps)
        press()
        return ["" for _ in rows]


class Walk:
    def __init__(self) -> None:
        self.pressed: list[int] = []

    def init(self, n, rng):
        return Shown(0, n, self.pressed)

    def step(self, t, state, rng):
        return Shown(t + 1, len(state), self.pressed), np.zeros(len(state))

    def done(self, state):
        return np.full(len(state), state.steps == 9)


def test_a_second_ctrl_c_is_raised(tiny_lm) -> None:
    """While the particles are collected that the first one has left."""
    walk = Walk()
    with pytest.raises(KeyboardInterrupt):
        fk.steer(walk, particles=2, seed=0, observers=[lambda step: press() if step.t == 2 else None])
    assert walk.pressed == [3]
    stream = fk.stream(Walk(), particles=2, seed=0, observers=[lambda step: press() if step.t == 2 else None])
    assert next(stream).t == 0 and next(stream).t == 1
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert list(stream) == []


@pytest.mark.parametrize("how", ["steer", "stream"])
def test_after_ctrl_c_the_next_run_is_what_it_would_have_been(tiny_lm, how) -> None:
    task, options = tiny_lm(eos=()).prompt("ab" * 9, max_tokens=9), {"particles": 4, "seed": 0}
    wanted = fk.steer(tiny_lm(eos=()).prompt("ab" * 9, max_tokens=9), count, **options)
    observers = [lambda step: press() if step.t == 3 else None]
    if how == "steer":
        assert not fk.steer(task, count, observers=observers, **options).complete
    else:
        assert len(list(fk.stream(task, count, observers=observers, **options))) == 3
    assert_same(fk.steer(task, count, **options), wanted)


def test_ctrl_c_on_an_event_loop_cancels_the_run(tiny_lm) -> None:
    """`asyncio.run` cancels its task, and raises KeyboardInterrupt once that is over."""
    began, closed = threading.Event(), threading.Event()

    class Watch:
        steps = 0

        def __call__(self, step: Any) -> None:
            self.steps += 1
            began.set()

        def close(self) -> None:
            closed.set()

    watch, task = Watch(), tiny_lm(eos=()).prompt("a", max_tokens=400)

    async def main() -> None:
        run = asyncio.ensure_future(fk.steer_async(task, particles=2, seed=0, observers=[watch]))
        while not began.is_set():
            await asyncio.sleep(0.001)
        press()
        await run

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert closed.wait(20) and watch.steps < 400


@pytest.mark.parametrize("algorithm", ["smc", "gibbs"])
@pytest.mark.parametrize("at", [0, 3])
def test_an_interrupt_while_a_step_is_recorded_leaves_all_of_it_or_nothing(tiny_lm, monkeypatch, algorithm, at) -> None:
    """Of two problems, the second of which has then one step fewer; of particle Gibbs in a second sweep."""
    from feynkac.steering.trail import Trail

    lm, record, seen = tiny_lm(eos=()), Trail.__call__, list[int]()
    options = {"particles": 4, "seed": 0, **({"sweeps": 3} if algorithm == "gibbs" else {})}
    first = [lm.prompt("a", max_tokens=5), lm.prompt("b", max_tokens=5)]

    def late(self, step, *rest):
        record(self, step, *rest)
        seen.append(step.t)
        if seen.count(at) == (2 if algorithm == "smc" else 3) and step.t == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trail, "__call__", late)
    if (algorithm, at) == ("smc", 0):
        with pytest.raises(KeyboardInterrupt):
            fk.steer(first, fk.reward(count), algorithm=algorithm, **options)
        return
    for g, found in enumerate(fk.steer(first, fk.reward(count), algorithm=algorithm, **options)):
        assert not found.complete
        steps = {len(column) for column in (found.history.ess, found.history.levels, found.history.log_weights)}
        assert steps == {5 if algorithm == "gibbs" else at + 1 - g}


def test_ctrl_c_while_the_loop_of_coroutines_starts_leaves_none_that_does_not_run(tiny_lm, monkeypatch) -> None:
    from feynkac.base import coroutines

    async def score(text: str) -> float:
        return 0.5 * text.count("b")

    task = tiny_lm(eos=()).prompt("a", max_tokens=3)
    monkeypatch.setattr(coroutines, "_loops", {})
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", press)
        with pytest.raises(KeyboardInterrupt):
            fk.steer(task, fk.reward(score), particles=2, seed=0)
    found = fk.steer(task, fk.reward(score, timeout=5.0), particles=2, seed=0)
    assert_same(found, fk.steer(task, fk.reward(count), particles=2, seed=0))
