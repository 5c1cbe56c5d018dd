"""A time limit for work that may hang in code that is not ours."""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from feynkac.smc.checks import name_of

_OFTEN = 0.02  # seconds between two looks


def run_within(timeout: float, act: Callable[[], None], things: Sequence[Any]) -> str | None:
    """Run `act` on a thread of its own: None, or, where a method of `things` takes more than `timeout` s, where it is.

    Python cannot stop the thread, which is left behind.
    """
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(act), daemon=True)
    thread.start()
    last, since = None, time.monotonic()
    while thread.is_alive():
        thread.join(_OFTEN)
        frame = _find_call(thread, things)
        if frame is None or frame is not last:
            last, since = frame, time.monotonic()
        elif time.monotonic() - since > timeout:
            owner = frame.f_locals[frame.f_code.co_varnames[0]]
            return f"'{name_of(owner)}'.{frame.f_code.co_name}, now at line {frame.f_lineno},"
    return None


def _find_call(thread: threading.Thread, things: Sequence[Any]) -> FrameType | None:
    """The outermost call of a method of `things` that the thread is in."""
    frame, found = sys._current_frames().get(thread.ident or 0), None
    while frame is not None:
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if hasattr(type(first), code.co_name) and any(first is thing for thing in things):
            found = frame
        frame = frame.f_back
    return found
