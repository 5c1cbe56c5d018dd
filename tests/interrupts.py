"""Ctrl-C wherever Python may let it come."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupt:
    """A KeyboardInterrupt behind call number `at`, from 0, of those that are made in one of `files`, or enter one.

    Python looks for a signal behind a call, at the beginning of a function, and where a loop goes back. `files` are
    the ends of paths.
    """

    def __init__(self, at: int | None, *files: str) -> None:
        self._at, self._files = at, files
        self.calls = 0
        """Calls so far."""

    def run(self, act: Callable[[], Any]) -> Any:
        """What `act` returns. Raises KeyboardInterrupt where it comes."""
        before = sys.getprofile()
        sys.setprofile(self._look)
        try:
            return act()
        finally:
            sys.setprofile(before)

    def _look(self, frame: FrameType, event: str, _: Any) -> None:
        if event in ("call", "c_return") and frame.f_code.co_filename.endswith(self._files):
            self.calls += 1
            if self.calls - 1 == self._at:
                sys.setprofile(None)
                raise KeyboardInterrupt
