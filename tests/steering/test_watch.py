"""The time limit of `feynkac.check`: what hangs is named, what is merely slow is not, and looking on is safe."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from feynkac.steering.checking import watch
from feynkac.steering.checking.watch import run_within


class Worker:
    """Works in calls of one method, one like the other."""

    def __init__(self, calls: int, seconds: float) -> None:
        self.calls, self.seconds, self.ended = calls, seconds, False

    def work(self) -> None:
        self._pause()

    def _pause(self) -> None:
        until = time.monotonic() + self.seconds
        while time.monotonic() < until and not self.ended:
            self._dig(self, 20)

    def _dig(self, above: Worker, depth: int) -> None:
        if depth:
            self._dig(Worker(depth, above.seconds), depth - 1)

    def work_on(self) -> None:
        for _ in range(self.calls):
            self.work()


@pytest.fixture
def collections() -> Iterator[Counter[str]]:
    """How often garbage was collected in each function of this thread, and "elsewhere"; as often as can be."""
    seen, here = Counter[str](), threading.get_ident()

    def see(phase: str, info: object) -> None:
        if threading.get_ident() != here:
            seen["elsewhere"] += 1
            return
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            seen[frame.f_code.co_qualname] += 1
            frame = frame.f_back

    before = gc.get_threshold()
    gc.callbacks.append(see)
    gc.set_threshold(1)
    yield seen
    gc.set_threshold(*before)
    gc.callbacks.remove(see)


def each_call(worker: Worker) -> Callable[[], None]:
    """Work in calls of which each is an outermost one."""

    def act() -> None:
        for _ in range(worker.calls):
            worker.work()

    return act


def test_a_call_that_hangs_is_named_with_its_line() -> None:
    worker = Worker(1, 3.0)
    told = run_within(0.2, worker.work, [worker])
    worker.ended = True
    assert told is not None and told.startswith("'Worker'.work, now at line ")


def test_many_calls_are_not_taken_for_one_that_hangs() -> None:
    worker = Worker(40, 0.05)
    assert run_within(1.0, each_call(worker), [worker]) is None


def test_calls_within_a_call_that_hangs_do_not_hide_it() -> None:
    worker = Worker(40, 0.05)
    told = run_within(0.2, worker.work_on, [worker])
    worker.ended = True
    assert told is not None and "'Worker'.work_on, now at line " in told


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="collections start between two instructions, and do no harm")
def test_nothing_is_collected_while_the_other_thread_is_looked_at(collections: Counter[str]) -> None:
    """Else Python 3.11 writes to frames that are gone: a crash of the process, seldom enough to be blamed on others."""
    worker = Worker(80, 0.005)
    run_within(0.1, each_call(worker), [worker])
    assert collections["elsewhere"] and collections[run_within.__qualname__]
    assert not collections[watch._find_call.__qualname__]
    assert gc.isenabled()


def test_who_collects_no_garbage_gets_none_collected() -> None:
    worker = Worker(8, 0.05)
    gc.disable()
    try:
        assert run_within(0.5, each_call(worker), [worker]) is None
        assert not gc.isenabled()
    finally:
        gc.enable()
