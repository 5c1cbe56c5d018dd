"""Calls of a user's function that is slow, remote or async: many at once, with a time limit, again if they fail."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from feynkac.base.coroutines import check_loop, start_coroutine
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_seconds, read_whole
from feynkac.base.words import is_word
from feynkac.smc.checks import FAULTS

OnError: TypeAlias = Literal["raise", "kill", "retry"]
RETRIES = 3
"""Times that a call is made again under on_error="retry", where no number is given."""
PAUSE = 1.0
"""Seconds before a call is made again for the first time; twice as long each further time."""
AT_ONCE = 16
"""Coroutines at once, where no number is given."""
_LOOK = 1.0
"""Seconds after which a wait looks up, so that Ctrl-C ends it on every system."""


class Failed(NamedTuple):
    """What stands for the value of a call that has none."""

    cause: BaseException
    tries: int


@dataclass(frozen=True)
class Calls:
    """How a function is called."""

    asynchronous: bool = False
    told: str | None = None
    """The name by which it takes the problem: "" for its second place, None if it takes none."""
    workers: int | None = None
    """Calls at once; None is one, and of a coroutine function `AT_ONCE`."""
    timeout: float | None = None
    """Seconds that each call may take."""
    on_error: OnError = "raise"
    retries: int | None = None
    """Times that a failed call is made again before it counts as failed."""

    def check(self, what: str, batch: bool) -> Calls:
        """These calls, for the potential `what`. Raises ArgumentError for what cannot be."""
        if self.workers is not None:
            read_whole(f"{what}: workers", self.workers, 1)
            if batch:
                raise ArgumentError(
                    f"{what}: with batch=True there is one call, which workers= cannot divide; leave it out"
                )
        read_seconds(f"{what}: timeout", self.timeout)
        if not is_word(self.on_error, get_args(OnError)):
            raise ArgumentError(f"{what}: on_error is {quote(self.on_error)}; choose 'raise', 'kill' or 'retry'")
        if self.on_error == "kill" and batch:
            raise ArgumentError(
                f"{what}: with batch=True one failure would kill every particle; give a function of one sample, "
                "or on_error='retry'"
            )
        if self.retries is not None:
            read_whole(f"{what}: retries", self.retries, 0)
        return self

    @property
    def plain(self) -> bool:
        """Whether nothing needs a thread or a second try."""
        return self == replace(Calls(), told=self.told)

    @property
    def tries(self) -> int:
        """How often a call is made at most."""
        default = RETRIES if self.on_error == "retry" else 0
        return 1 + (default if self.retries is None else self.retries)

    def run(self, f: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The value of f(*each) for each of `arguments`, or `Failed`; unless failures kill, the first ends all.

        Raises Blocked where a coroutine takes too long without letting others run.
        Calls that were given up are not waited for: a coroutine is cancelled, a thread ends when its call returns.
        """
        return _Run(self, f, arguments).drive()


@dataclass(order=True)
class _Try:
    """A call that is to be made, not before `due` on the clock."""

    due: float
    number: int
    made: int = field(default=0, compare=False)
    deadline: float = field(default=float("inf"), compare=False)


class _Run:
    """All calls of one question, in the order of the samples, so many at a time."""

    def __init__(self, calls: Calls, f: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> None:
        self._calls, self._f, self._arguments = calls, f, arguments
        self._at_once = calls.workers or (AT_ONCE if calls.asynchronous else 1)
        here = calls.workers is None and calls.timeout is None
        self._start = start_coroutine if calls.asynchronous else _call_here if here else _start_thread
        self._waiting = [_Try(0.0, i) for i in range(len(arguments))]
        self._running: dict[Future[Any], _Try] = {}
        self._values: list[Any] = [None] * len(arguments)

    def drive(self) -> list[Any]:
        try:
            while self._waiting or self._running:
                self._begin()
                self._pause()
                for future, made in list(self._running.items()):
                    failed = self._settle(future, made)
                    if failed and self._calls.on_error != "kill":
                        return self._values
            return self._values
        finally:
            for future in self._running:
                future.cancel()

    def _begin(self) -> None:
        """Start what is due, as far as there is room."""
        while self._waiting and len(self._running) < self._at_once and self._waiting[0].due <= time.monotonic():
            attempt = heapq.heappop(self._waiting)
            attempt.made += 1
            if self._calls.timeout is not None:
                attempt.deadline = time.monotonic() + self._calls.timeout
            self._running[self._start(self._f, self._arguments[attempt.number])] = attempt

    def _pause(self) -> None:
        """Wait until a call is over, has taken too long, or is due."""
        events = [attempt.deadline for attempt in self._running.values()]
        if self._waiting and len(self._running) < self._at_once:
            events.append(self._waiting[0].due)
        seconds = max(0.0, min(_LOOK, min(events) - time.monotonic()))
        if self._running:
            wait(self._running, timeout=seconds, return_when=FIRST_COMPLETED)
        else:
            time.sleep(seconds)

    def _settle(self, future: Future[Any], attempt: _Try) -> bool:
        """Take the value of a call that is over, or has taken too long; whether it has failed for good."""
        cause = self._find_fault(future, attempt)
        if cause is None and not future.done():
            return False
        del self._running[future]
        if cause is None:
            self._values[attempt.number] = future.result()
            return False
        if not isinstance(cause, FAULTS):
            raise cause
        if attempt.made < self._calls.tries:
            attempt.due = time.monotonic() + PAUSE * 2.0 ** (attempt.made - 1)
            attempt.deadline = float("inf")
            heapq.heappush(self._waiting, attempt)
            return False
        self._values[attempt.number] = Failed(cause, attempt.made)
        return True

    def _find_fault(self, future: Future[Any], attempt: _Try) -> BaseException | None:
        """What went wrong with a call; None if nothing has so far."""
        if future.done():
            return CancelledError("it was cancelled") if future.cancelled() else future.exception()
        if time.monotonic() < attempt.deadline:
            return None
        future.cancel()
        if self._calls.asynchronous:
            check_loop()
        return TimeoutError(f"no answer within {self._calls.timeout:g} s")


def _call_here(f: Callable[..., Any], arguments: tuple[Any, ...]) -> Future[Any]:
    """What became of f(*arguments), for functions that are only made again."""
    future = Future[Any]()
    try:
        future.set_result(f(*arguments))
    except FAULTS as cause:
        future.set_exception(cause)
    return future


def _start_thread(f: Callable[..., Any], arguments: tuple[Any, ...]) -> Future[Any]:
    """Start f(*arguments) in a thread of its own, which keeps no process from ending."""
    future, context = Future[Any](), copy_context()
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            value = context.run(f, *arguments)
        except BaseException as cause:
            future.set_exception(cause)
        else:
            future.set_result(value)

    threading.Thread(target=work, name="feynkac reward", daemon=True).start()
    return future
