"""What programs print: each line says which particle and which step, and a replay prints nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from greenlet import getcurrent

from feynkac.programs.runtime.strand import Strand


class Tagged:
    """A text stream that marks the lines of programs, and leaves those of everyone else alone."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._at_start = stream, True

    def write(self, text: str) -> int:
        strand = getcurrent()
        if not isinstance(strand, Strand):
            return self._stream.write(text)
        particle = strand.execution
        if not particle.replaying:
            tag = f"[particle {particle.row}, step {particle.run.t}] "
            for line in text.splitlines(keepends=True):
                self._stream.write(tag + line if self._at_start else line)
                self._at_start = line.endswith("\n")
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def tagged() -> Iterator[None]:
    """Mark what is printed meanwhile."""
    before = sys.stdout
    if not isinstance(before, Tagged):
        sys.stdout = Tagged(before)
    try:
        yield
    finally:
        sys.stdout = before
