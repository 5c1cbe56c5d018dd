"""Ctrl-C, SIGTERM and a terminal that is closed: the run ends, what there is is kept, and the exit code says so."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Turns the first signal into a KeyboardInterrupt, which `steer` ends a run at; the second ends the process.

    A terminal that is closed says so several times, by itself and by its shell; under `nohup` nobody listens. Handlers
    are those of the process, so that only a command sets them, and puts back what there was. While `holding`, as
    results are written, the first signal is noted only.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        """The signal that came; None for none."""
        self.holding = False
        self.kept = False
        """Whether there was a result to be written."""
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """What the shell is told: 130 of Ctrl-C, 143 of SIGTERM, 129 of a terminal that was closed."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> Stop:
        self.signal, self.holding, self.kept = None, False, False
        try:
            heard = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._receive) for number in heard}
        except ValueError:  # not the main thread, to which no signal comes
            self._before = {}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again = self.signal is not None
        if again and number == signal.SIGHUP:
            return
        self.signal = number
        if again:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self.holding:
            raise KeyboardInterrupt


STOP = Stop()
"""The one of this process: a command line is its main program, and has one."""


def check_stop(step: Any) -> bool:
    """An observer that ends a run after a signal that something in it has caught."""
    return STOP.signal is not None
