"""A time limit for work that may hang in code that is not ours."""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from types import CodeType, FrameType
from typing import Any

from feynkac.smc.checks import name_of

_OFTEN = 0.02  # seconds between two looks


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
        thread.join(_OFTEN)
        frame = _find_call(thread, owners)
        if frame is None or frame is not last:
            last, since = frame, time.monotonic()
        elif time.monotonic() - since > timeout:
            owner = frame.f_locals.get(frame.f_code.co_varnames[0], owners[frame.f_code])
            return f"'{name_of(owner)}'.{frame.f_code.co_name}, now at line {frame.f_lineno},"
    return None


def _find_call(thread: threading.Thread, codes: Container[CodeType]) -> FrameType | None:
    """The outermost call of one of `codes` that the thread is in.

    Local variables are not looked at: to read them of a thread that runs has crashed the interpreter (3.11).
    """
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
