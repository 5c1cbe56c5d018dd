"""Calls with a limit of time: what they return and raise, and on which threads they run."""

from __future__ import annotations

import contextvars
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from feynkac.base.deadline import Overdue, call_each

LIMITS = [None, 30.0, 1e12]


def refuse() -> None:
    raise ValueError("no")


@pytest.mark.parametrize("seconds", LIMITS)
def test_calls_return_and_raise_with_and_without_a_limit(seconds: float | None) -> None:
    made: list[int] = []
    assert call_each([], seconds) == []
    assert call_each([partial(pow, 2, k) for k in range(5)], seconds) == [1, 2, 4, 8, 16]
    with pytest.raises(ValueError, match="no"):
        call_each([partial(made.append, 1), refuse, partial(made.append, 2)], seconds)
    assert made == [1]


@pytest.mark.parametrize("seconds", LIMITS)
def test_calls_see_the_context_of_whoever_waits(seconds: float | None) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    variable.set(3)
    assert call_each([variable.get], seconds) == [3]


def test_the_call_that_takes_too_long_is_told_and_those_behind_it_are_not_made() -> None:
    stop, made = threading.Event(), list[int]()
    with pytest.raises(Overdue) as late:
        call_each([lambda: None, lambda: stop.wait(30.0), lambda: made.append(1)], 0.05)
    assert late.value.at == 1
    stop.set()
    time.sleep(0.05)
    assert not made


def test_the_limit_is_that_of_each_call() -> None:
    pause = partial(time.sleep, 0.02)
    call_each([pause] * 20, 0.3)


def test_a_thread_is_used_again_and_holds_nothing_of_what_it_did() -> None:
    class Thing:
        def __call__(self) -> int:
            return threading.get_ident()

    import gc
    import weakref

    first = Thing()
    [one] = call_each([first], 30.0)
    gone = weakref.ref(first)
    del first
    assert call_each([threading.get_ident], 30.0) == [one]
    gc.collect()
    assert gone() is None


def test_a_call_may_make_calls_with_limits() -> None:
    def nest(depth: int) -> int:
        return 1 + sum(call_each([partial(nest, depth - 1)], 30.0)) if depth else 0

    assert call_each([partial(nest, 3)], 30.0) == [3]


def test_calls_of_many_threads_do_not_wait_for_each_other() -> None:
    meet = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda k: call_each([lambda: meet.wait(30.0), lambda: k], 30.0)[1], range(8)))
    assert done == list(range(8))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    call_each([time.time], 30.0)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, b"1" if call_each([lambda: 7], 10.0) == [7] else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"1"
    os.close(read)
    os.close(write)
