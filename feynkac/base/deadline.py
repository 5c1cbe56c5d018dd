"""Calls of functions that may hang: each has so many seconds, and whoever waits is told which one took longer."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Overdue(Exception):
    """A call that took longer than it may; `at` is its number."""

    def __init__(self, at: int) -> None:
        super().__init__(f"call {at} took too long")
        self.at = at


def call_each(calls: Sequence[Callable[[], T]], seconds: float | None) -> list[T]:
    """What each of `calls` returns, made one after the other; each may take so many `seconds`, any time if None.

    Raises what a call raises, or Overdue. With a limit they run on a thread of their own: Python has no means to stop
    one that hangs, so it is left behind, and does not keep the process alive.
    """
    if seconds is None:
        return [call() for call in calls]
    answers: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
    abandoned = threading.Event()

    def work() -> None:
        for call in calls:
            if abandoned.is_set():
                return
            try:
                answers.put((True, call()))
            except BaseException as raised:  # told to whoever waits
                answers.put((False, raised))
                return

    threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
    returned = []
    for i in range(len(calls)):
        try:
            fine, value = answers.get(timeout=seconds)
        except Empty:
            abandoned.set()
            raise Overdue(i) from None
        if not fine:
            raise value
        returned.append(value)
    return returned
