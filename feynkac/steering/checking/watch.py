"""A time limit for work that may hang in code that is not ours."""

from __future__ import annotations

import contextvars
import gc
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from feynkac.smc.checks import name_of

_LOOKS = 8  # within the time-out
_LONGEST = 1.0  # seconds between two looks
_alone = threading.Lock()


def run_within(timeout: float, act: Callable[[], None], things: Sequence[Any]) -> str | None:
    """Run `act` on a thread of its own: None, or, where a method of `things` takes more than `timeout` s, where it is.

    Python cannot stop the thread, which is left behind.
    """
    owners = {code: thing for thing in things for code in _list_code(type(thing))}
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(act), daemon=True)
    thread.start()
    last, since = None, time.monotonic()
    while thread.is_alive():
        thread.join(min(timeout / _LOOKS, _LONGEST))
        with _collect_nothing():
            frame = _find_call(thread, owners)
            if frame is None or frame is not last:
                last, since = frame, time.monotonic()
            elif time.monotonic() - since > timeout:
                owner = frame.f_locals.get(frame.f_code.co_varnames[0], owners[frame.f_code])
                return f"'{name_of(owner)}'.{frame.f_code.co_name}, now at line {frame.f_lineno},"
    return None


@contextmanager
def _collect_nothing() -> Iterator[None]:
    """No garbage is collected meanwhile, where that would let the other thread go on.

    Before Python 3.12 the object for a frame may be what a collection starts at. What that runs may let go of the
    interpreter's lock; the other thread then returns from the frame, which is written to all the same: the process
    crashes, or waits for itself.
    """
    if sys.version_info >= (3, 12):
        yield
        return
    with _alone:
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


def _find_call(thread: threading.Thread, codes: Container[CodeType]) -> FrameType | None:
    """The outermost call of one of `codes` that the thread is in."""
    frame, found = sys._current_frames().get(thread.ident or 0), None
    while frame is not None:
        if frame.f_code in codes:
            found = frame
        frame = frame.f_back
    return found


def _list_code(kind: type) -> Iterator[CodeType]:
    """The code of all methods of a class that take the object."""
    for each in kind.__mro__:
        for method in vars(each).values():
            code = getattr(method, "__code__", None)
            if isinstance(code, CodeType) and code.co_argcount:
                yield code
