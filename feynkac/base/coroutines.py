"""One event loop in a thread of our own, where the coroutines of users run, those of all rewards among them.

It lasts as long as the process, since what coroutines share (a client, a semaphore) belongs to the loop that first ran
it. It is another one than any that the caller may be running in, as a notebook or a server does.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

_lock = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}
"""The loop of each process that has one: a forked child has no thread that would run its parent's."""


class Blocked(Exception):
    """What a coroutine does that keeps the loop to itself, and what to do about it."""


def start_coroutine(f: Callable[..., Any], arguments: tuple[Any, ...]) -> Future[Any]:
    """Start f(*arguments) on the loop, and await what can be; with the context variables of the caller."""

    async def wait() -> Any:
        try:
            value = f(*arguments)
            return await value if inspect.isawaitable(value) else value
        except (KeyboardInterrupt, SystemExit) as cause:  # either would end the loop
            raise RuntimeError(f"{type(cause).__name__} inside of a coroutine") from cause

    loop = _find_loop()
    return asyncio.run_coroutine_threadsafe(wait(), loop)


def check_loop(seconds: float = 1.0) -> None:
    """Raises Blocked where nothing else comes to run on the loop within so many seconds; that loop is given up."""
    loop, answered = _find_loop(), threading.Event()
    loop.call_soon_threadsafe(answered.set)
    if answered.wait(seconds):
        return
    with _lock:
        if _loops.get(os.getpid()) is loop:
            del _loops[os.getpid()]
    raise Blocked(
        "waits without await, so that no other coroutine can run; make it a plain function and give workers=, or let "
        "it await asyncio.to_thread(...)"
    )


def _find_loop() -> asyncio.AbstractEventLoop:
    with _lock:
        loop = _loops.get(os.getpid())
        if loop is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="feynkac coroutines", daemon=True)
            try:
                thread.start()
            except BaseException:
                if not thread.is_alive():
                    loop.close()
                raise
            atexit.register(_stop, os.getpid(), loop, thread)
            _loops[os.getpid()] = loop  # only now: one that an interrupt kept from starting would never answer
        return loop


def _stop(process: int, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if process != os.getpid():  # a forked child ends, and must leave its parent's loop alone
        return
    loop.call_soon_threadsafe(loop.stop)
    thread.join(1.0 if _loops.get(process) is loop else 0.0)  # one that was given up would not come to its end
    if not thread.is_alive():
        loop.close()
