"""Where the time of a run goes: to the model or to the potentials, also where one of them asks the other."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
Part: TypeAlias = Literal["model", "potentials"]


class Stopwatch:
    """Seconds spent in the model and in the potentials."""

    def __init__(self) -> None:
        self.spent: dict[Part, float] = {"model": 0.0, "potentials": 0.0}
        self._began = self._since = time.perf_counter()
        self._part: Part | None = None

    @property
    def total(self) -> float:
        """Wall-clock seconds so far."""
        return time.perf_counter() - self._began

    @contextmanager
    def on(self, part: Part) -> Iterator[None]:
        """Put time down to `part`, and to what was on before once that is over."""
        before, token = self._turn(part), _RUNNING.set(self)
        try:
            yield
        finally:
            self._turn(before)
            _RUNNING.reset(token)

    def _turn(self, part: Part | None) -> Part | None:
        now, before = time.perf_counter(), self._part
        if before is not None:
            self.spent[before] += now - self._since
        self._part, self._since = part, now
        return before


_RUNNING: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


def charge(part: Part) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function whose time is put down to `part`, whoever calls it: a network that runs when a potential looks."""

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            watch = _RUNNING.get()
            if watch is None:
                return function(*args, **kwargs)
            with watch.on(part):
                return function(*args, **kwargs)

        return run

    return decorated
