"""What programs print: each line says which particle and which step, and a replay prints nothing."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from feynkac.programs.runtime.strand import Strand

if TYPE_CHECKING:
    from feynkac.programs.runtime.running import Running

_INSTALLING = threading.Lock()
"""Held while `sys.stdout` is looked at and assigned."""


class Tagged:
    """A text stream that marks the lines of programs, and leaves those of everyone else alone.

    Who writes is found anew each time, so that any number of runs, in any number of threads, share one. A line of a
    program is written when it is whole, in one piece.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.users = 0
        """Steps of runs that are going on."""

    def write(self, text: str) -> int:
        strand = getcurrent()
        if not isinstance(strand, Strand) or strand.printing:
            return self.stream.write(text)
        execution = strand.execution
        if not execution.replaying:
            *lines, execution.line = (execution.line + text).split("\n")
            if lines:
                self._write_lines(strand, lines)
        return len(text)

    def _write_lines(self, strand: Strand, lines: list[str]) -> None:
        tag = _make_tag(strand.execution)
        strand.printing = True  # the stream may be one of ours, too, where somebody has wrapped it
        try:
            self.stream.write("".join(f"{tag}{line}\n" for line in lines))
        finally:
            strand.printing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def tag_lines() -> Iterator[None]:
    """Mark what programs print meanwhile.

    The first run that comes puts a `Tagged` in the place of `sys.stdout`, and the last one that goes puts back what
    stood there, unless somebody has assigned another stream by then: that one stays.
    """
    stream = _install()
    try:
        yield
    finally:
        _remove(stream)


def _install() -> Tagged:
    with _INSTALLING:
        stream = sys.stdout
        if not isinstance(stream, Tagged):
            stream = Tagged(stream)
            if stream.stream is not None:  # as in a program without a console
                sys.stdout = stream
        stream.users += 1
        return stream


def _remove(stream: Tagged) -> None:
    with _INSTALLING:
        stream.users -= 1
        if stream.users == 0 and sys.stdout is stream:
            sys.stdout = stream.stream


def end_line(execution: Running) -> None:
    """Write what is left of a line when its program is over."""
    stream = sys.stdout
    if stream is not None:
        target = stream.stream if isinstance(stream, Tagged) else stream
        target.write(f"{_make_tag(execution)}{execution.line}\n")
    execution.line = ""


def _make_tag(execution: Running) -> str:
    return f"[particle {execution.row}, step {execution.run.t}] "
