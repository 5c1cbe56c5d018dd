"""What a program raised, as a line of an error: what it was, where in the program, and at which of its texts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from feynkac.base.errors import is_out_of_memory

if TYPE_CHECKING:
    from feynkac.programs.runtime.execution import Execution


def describe_cause(cause: BaseException, function: Callable[..., Any]) -> str:
    """What was raised below `function`, at which line of it or of what stands beside it, and what to do if known."""
    where = _find_line(cause, function)
    if isinstance(cause, RecursionError):
        return f"it calls itself too deep{where}: {cause}; write it as a loop, which may be as long as you like"
    less = "; use fewer particles" if is_out_of_memory(cause) else ""
    return f"it raised {type(cause).__name__}{where}: {cause}{less}"


def _find_line(cause: BaseException, function: Callable[..., Any]) -> str:
    """The innermost line in the file of `function`."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    found, trace = "", cause.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename == file:
            found = f" in {code.co_name} ({file}:{trace.tb_lineno})"
        trace = trace.tb_next
    return found


def describe_place(function: Callable[..., Any], why: str = "") -> str | None:
    """The line in the file of `function` that runs now, and what is told of it; None if there is neither."""
    return ", where ".join(filter(None, (find_line(function), why))) or None


def find_line(function: Callable[..., Any]) -> str | None:
    """The line in the file of `function` that runs now, in words; None if none does."""
    file, frame = getattr(getattr(function, "__code__", None), "co_filename", None), sys._getframe()
    while frame is not None and frame.f_code.co_filename != file:
        frame = frame.f_back
    return None if frame is None else f"at line {frame.f_lineno} of {PurePath(frame.f_code.co_filename).name}"


def describe_execution(execution: Execution) -> str:
    """Which program it is that runs, of which particle, at which step, and its texts if it has opened any."""
    where = f"in program '{execution.run.name}', particle {execution.row}, step {execution.run.t}"
    return f"{where}, text {show_texts(execution)}" if execution.opened else where


def show_texts(execution: Execution) -> str:
    """The texts of an execution, shortened."""
    texts = [str(context) for context in execution.list_contexts()]
    return " | ".join(repr(text if len(text) <= 200 else "..." + text[-200:]) for text in texts) or "(none)"
