"""Calls of functions that may hang: each has so many seconds, and whoever waits is told which one took longer."""

from __future__ import annotations

import contextvars
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Overdue(Exception):
    """A call that took longer than it may; `at` is its number."""

    def __init__(self, at: int) -> None:
        super().__init__(f"call {at} took too long")
        self.at = at


def call_each(calls: Sequence[Callable[[], T]], seconds: float | None) -> list[T]:
    """What each of `calls` returns, made one after the other; each may take so many `seconds`, any time if None.

    Raises what a call raises, or Overdue. With a limit they run on another thread: Python has no means to stop one
    that hangs, so it is left behind, and does not keep the process alive.
    """
    if seconds is None:
        return [call() for call in calls]
    run = _Run(calls)
    _find_helper().put(run)
    try:
        run.wait(min(seconds, threading.TIMEOUT_MAX))
    finally:
        run.abandoned = True  # also where whoever waits is interrupted
    if run.failure is not None:
        raise run.failure
    return run.returned


class _Run(Generic[T]):
    """Some calls, on their way on another thread."""

    def __init__(self, calls: Sequence[Callable[[], T]]) -> None:
        self._calls, self._context = calls, contextvars.copy_context()
        self._over = threading.Lock()
        self._over.acquire()
        self._began = time.monotonic()
        self.returned: list[T] = []
        self.failure: BaseException | None = None
        self.abandoned = False

    def work(self) -> None:
        """Make the calls, on the thread that this is called on."""
        try:
            self._context.run(self._call)
        except BaseException as failure:  # raised by whoever waits
            self.failure = failure

    def end(self) -> None:
        """Let whoever waits go on."""
        self._over.release()

    def _call(self) -> None:
        for call in self._calls:
            if self.abandoned:
                return
            self._began = time.monotonic()
            self.returned.append(call())

    def wait(self, seconds: float) -> None:
        """Return when all calls have returned, or one has raised. Raises Overdue."""
        left = seconds
        while not self._over.acquire(timeout=left):
            at = len(self.returned)
            left = seconds - (time.monotonic() - self._began)
            if left <= 0.0:
                raise Overdue(at)


_idle: list[SimpleQueue[_Run[Any]]] = []
"""The inboxes of threads that wait for calls: to wake one takes a third of the time that a new one takes to start."""
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_idle.clear)  # threads do not live on there


def _find_helper() -> SimpleQueue[_Run[Any]]:
    try:
        return _idle.pop()
    except IndexError:
        inbox = SimpleQueue[_Run[Any]]()
        threading.Thread(target=_help, args=(inbox,), name="feynkac deadline", daemon=True).start()
        return inbox


def _help(inbox: SimpleQueue[_Run[Any]]) -> None:
    while True:
        _serve(inbox.get(), inbox)  # a function of its own, which keeps nothing of a run when it is over


def _serve(run: _Run[Any], inbox: SimpleQueue[_Run[Any]]) -> None:
    run.work()
    _idle.append(inbox)  # before whoever waits goes on, and may call again
    run.end()
