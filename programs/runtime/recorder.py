"""Writes the record of one execution, and walks the record of its parent again before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn, cast

from greenlet import GreenletExit

from feynkac.base.errors import ProgramError
from feynkac.base.tokens import Token
from feynkac.programs.runtime.limits import make_endless
from feynkac.programs.runtime.record import Record, Request, Tail, describe, list_backwards, make_divergence

if TYPE_CHECKING:
    from feynkac.programs.runtime.execution import Execution
    from feynkac.programs.runtime.scheduler import Run

MAX_REQUESTS = 1_000_000
"""Requests between two samples, after which a program is taken to run forever."""
MAX_SWALLOWED = 1_000
"""Requests that a program makes after its end, after which it is taken never to let go."""
_CLOSE = {"rel_tol": 1e-6, "abs_tol": 1e-9}  # a neural reward may differ by so much when it is asked again


class Recorder:
    """The record of one execution. While there is a `past` a request is compared with it, afterwards it is written."""

    def __init__(self, run: Run, row: int, tail: Tail) -> None:
        self.run = run
        self.row = row
        self.tail = tail
        self.past = list_backwards(tail)
        """What is still to be walked again, the next record last."""
        self.expected: Request | None = None
        """The request at which the parent waits, until a replay arrives there."""
        self.pins: list[Record] = []
        """Choices to take instead of drawing them, the next one last."""
        self.requests: float = 0
        """Requests since the last sample; infinitely many once it has ended."""
        self.failure: ProgramError | None = None
        """What has ended it for good, whether the program lets it pass or not."""
        self.swallowed = 0
        """Requests that it has made after its end."""

    @property
    def replaying(self) -> bool:
        """Whether the program has not yet reached the request at which its parent waits."""
        return bool(self.past) or self.expected is not None

    def note(self, kind: str, key: Any, value: Any = None, after: Any = None) -> None:
        """Record a request."""
        if self.expected is not None:
            self.arrive(kind, key)
        self.requests += 1
        if self.requests > MAX_REQUESTS:
            self.check_alive()
            what = f"{MAX_REQUESTS} requests without a sample"
            self.fail(make_endless(cast("Execution", self), what, "Let each round of a loop sample"))
        self.tail = (self.tail, kind, key, value, after)

    def fail(self, error: ProgramError) -> NoReturn:
        """Raise `error`, which ends the execution: a program that catches it meets it again at its next request."""
        self.failure = error
        self.past, self.expected, self.requests = [], None, math.inf
        raise error

    def check_alive(self) -> None:
        """Raise again what has ended the execution, of which the program has taken no notice."""
        if self.requests < math.inf:
            return
        self.swallowed += 1
        if self.swallowed > MAX_SWALLOWED:
            self.abandon()
        raise self.failure or GreenletExit

    def abandon(self) -> NoReturn:
        """Leave a program that catches whatever ends it, and never return to it."""
        raise NotImplementedError

    def retrace(self, kind: str, key: Any) -> Any:
        """The value of the next record, which must be of this request. Raises ReplayDiverged if it is not."""
        _, was, was_key, value, _ = self.past.pop()
        close = was_key == key or (isinstance(key, float) and math.isclose(was_key, key, **_CLOSE))
        if was is not kind or not close:
            self.diverge(was, was_key, kind, key)
        return value

    def arrive(self, kind: str, key: Any) -> None:
        """The first request after a replay must be the one at which the parent waits, or else ReplayDiverged."""
        if self.expected is not None:
            was = self.expected
            self.expected = None
            if was != (kind, key):
                self.diverge(*was, kind, key)

    def take_pin(self, kind: str) -> Any:
        """The value of the next choice to take. Raises ProgramError if it is of another kind."""
        pin = self.pins.pop()
        self.check_pin(pin, kind)
        return pin.value

    def check_pin(self, pin: Record, kind: str) -> None:
        """Fail if a choice to take is not of this kind."""
        if pin.kind is not kind:
            self.fail(ProgramError(f"the reference path of program '{self.run.name}' is not one of its paths"))

    def leave_record(self, now: str, now_key: Any) -> NoReturn:
        """Raises ReplayDiverged: another request was recorded."""
        _, was, was_key, _, _ = self.past[-1]
        self.diverge(was, was_key, now, now_key)

    def diverge(self, was: str, was_key: Any, now: str, now_key: Any) -> NoReturn:
        """Fail with ReplayDiverged, which names both requests."""
        number = len(list_backwards(self.tail)) - len(self.past)
        self.fail(make_divergence(self.run.name, self.row, number, describe(was, was_key), describe(now, now_key)))


def fingerprint(value: Any) -> Any:
    """What of an observed value is compared in a replay."""
    if isinstance(value, Token):
        return value.id
    return value if isinstance(value, bool | int | float | str) else type(value).__name__
