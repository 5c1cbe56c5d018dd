"""`steer` and `stream` for event loops: the work is done in threads, and a task that is cancelled ends its run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from functools import cache, partial
from threading import Event
from typing import Any, Generic, TypeVar, Unpack, overload

from feynkac.base.contract import Model
from feynkac.base.errors import ArgumentError
from feynkac.results.result import Result
from feynkac.steering.options import SteerOptions, check_names
from feynkac.steering.running import Run
from feynkac.steering.streaming import NO_RESULT, M, Moment, R, Stream, start_run

T = TypeVar("T")
AT_ONCE = min(32, (os.cpu_count() or 1) + 4)
"""Runs of `steer_async` at once; others wait. It is what `asyncio.to_thread` allows."""
_INSIDE: ContextVar[bool] = ContextVar("inside", default=False)
"""Whether a run of `steer_async` calls us, say in a reward: it must not wait for a thread that it holds itself."""


@overload
async def steer_async(
    model: list[Any] | tuple[Any, ...], *potentials: Any, **options: Unpack[SteerOptions]
) -> list[Result]: ...
@overload
async def steer_async(model: Model, *potentials: Any, **options: Unpack[SteerOptions]) -> Result: ...


async def steer_async(model: Any, *potentials: Any, **options: Unpack[SteerOptions]) -> Any:
    """What `steer` gives, awaited: the run is in a thread, and the event loop goes on.

        result = await fk.steer_async(task, reward, particles=32, seed=0)
        results = await asyncio.gather(*(fk.steer_async(task, reward, seed=0) for task in tasks))

    It takes what `steer` takes. Any number may run on one model: each gives what it gives alone. At most as many run at
    once as `asyncio.to_thread` allows (the processors and four more, at most 32); the others wait for their turn, and
    their budgets begin with it. Context variables are those of the caller; the modes of torch (`autocast`, `no_grad`)
    belong to threads, and are not.

    Cancelled, as by `asyncio.timeout` or Ctrl-C, it raises CancelledError at once, and the run ends after the step that
    it is in. For what there is after some seconds give `budget=fk.Budget(seconds=...)` instead. Raises what `steer`
    raises.
    """
    check_names("steer_async", options)
    halt = Event()

    def work() -> Any:
        _INSIDE.set(True)
        run = Run(model, potentials, halt=halt, **options)
        for _ in run.advance():
            pass
        return run.finish()

    if not _INSIDE.get():
        return await _await(_find_pool(os.getpid()), work, halt)
    own = ThreadPoolExecutor(1, "feynkac steer")
    try:
        return await _await(own, work, halt)
    finally:
        own.shutdown(wait=False)


class AsyncStream(Generic[M, R]):
    """The steps of a run, each made in a thread of its own when it is awaited; see `Stream`.

    `aclose()` ends the run and waits for the step that it is in, and so does `async with`.
    """

    def __init__(self, make: Callable[[Event], Stream[M, R]]) -> None:
        self._make, self._halt, self._closed = make, Event(), False
        self._pool = ThreadPoolExecutor(1, "feynkac stream")  # one thread, since programs and pipelines keep to theirs
        self._stream: Stream[M, R] | None = None

    def __aiter__(self) -> AsyncStream[M, R]:
        return self

    async def __anext__(self) -> M:
        """The next step. Raises what `Stream` raises. Cancelled, the run ends after the step that it is in."""
        step = None if self._closed else await _await(self._pool, self._go_on, self._halt)
        if step is None:
            raise StopAsyncIteration
        return step

    @property
    def result(self) -> R:
        """See `Stream.result`. Raises ArgumentError before the first step."""
        if self._stream is None:
            raise ArgumentError(NO_RESULT)
        return self._stream.result

    async def aclose(self) -> None:
        """End the run, free what it holds, and keep the result so far."""
        self._halt.set()
        if not self._closed:
            self._closed = True
            closing = asyncio.get_running_loop().run_in_executor(self._pool, self._close)
            self._pool.shutdown(wait=False)
            await asyncio.shield(closing)

    async def __aenter__(self) -> AsyncStream[M, R]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _go_on(self) -> M | None:
        if self._stream is None:
            self._stream = self._make(self._halt)
        return next(self._stream, None)

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()


@overload
def stream_async(
    model: list[Any] | tuple[Any, ...], *potentials: Any, **options: Unpack[SteerOptions]
) -> AsyncStream[list[Moment], list[Result]]: ...
@overload
def stream_async(model: Model, *potentials: Any, **options: Unpack[SteerOptions]) -> AsyncStream[Moment, Result]: ...


def stream_async(model: Any, *potentials: Any, **options: Unpack[SteerOptions]) -> Any:
    """The steps of a run, for `async for`: what `stream` gives, while the event loop goes on.

        async with fk.stream_async(task, reward, seed=0) as stream:
            async for step in stream:
                await websocket.send_text(step.best)
        stream.result

    Each open stream has a thread, which works only while a step is awaited. Cancelled, as by `asyncio.timeout`, the run
    ends after the step that it is in, and `async with` waits for that: `stream.result` is then what there is. Raises
    UnknownArgument at once, and what `stream` raises at the first step.
    """
    check_names("stream_async", options)
    return AsyncStream(lambda halt: Stream(start_run(model, potentials, options, halt)))


async def _await(pool: ThreadPoolExecutor, work: Callable[[], T], halt: Event) -> T:
    """What `work` returns, done in a thread of `pool` with our context variables. Cancelled, it sets `halt`."""
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, partial(copy_context().run, work))
    except asyncio.CancelledError:
        halt.set()
        raise


@cache
def _find_pool(process: int) -> ThreadPoolExecutor:
    """The threads of this process: a forked one has none of its parent's."""
    return ThreadPoolExecutor(AT_ONCE, "feynkac steer")
