"""One execution of a program, on a greenlet of its own: it waits for answers, records them, and walks a record again.

Where a program needs a draw or logits it waits, and the engine serves all that wait together. To fork a particle its
program is run afresh on the recorded values, up to the request at which the parent waits.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from greenlet import GreenletExit, getcurrent

from feynkac.base.errors import ArgumentError, ProgramError
from feynkac.base.host import HOST
from feynkac.programs.foreign import generator
from feynkac.programs.runtime.record import (
    DEATH,
    OBSERVE,
    RETURN,
    RNG,
    SAMPLE,
    Record,
    Tail,
    backwards,
    described,
    diverged,
)  # fmt: skip
from feynkac.programs.runtime.strand import Strand

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary
    from feynkac.models.language.histories import Node
    from feynkac.programs.context import Context
    from feynkac.programs.runtime.scheduler import Run

MAX_REQUESTS = 1_000_000
"""Requests between two samples, after which a program is taken to run forever."""
_CLOSE = {"rel_tol": 1e-6, "abs_tol": 1e-9}  # a neural reward may differ by so much when it is asked again


class Execution:
    """What the engine sees of a particle (`Particle` is what its program sees). All weights are in nats."""

    def __init__(self, run: Run, row: int, call: tuple[Any, Sequence[Any], dict[str, Any]], tail: Tail = None) -> None:
        self.run, self.row = run, row
        self.increment = 0.0
        self.pending: tuple[str, Any] | None = None
        self.finished = self.dead = False
        self.tail = tail
        self.pins: list[Record] = []
        """Choices to take instead of drawing them, the next one last."""
        self.expected: tuple[str, Any] | None = None
        """The request at which the parent waits, until a replay arrives there."""
        self.inside_once = False
        """Whether `once` is running, where another run may be started."""
        self.opened = False
        """Whether the program has opened a context."""
        self._past = backwards(tail)
        self._function, self._args, self._kwargs = call
        self._twist = 0.0
        self._requests = 0
        self._rng: np.random.Generator | None = None
        self._rekeyed = 0
        self._contexts: list[weakref.ref[Context]] = []
        self.strand: Strand | None = None
        """What it runs on; None before it begins, and when it is over."""

    # --- what the engine calls

    def resume(self, answer: Any) -> None:
        """Run on with `answer` to the next request, to the end, or to death."""
        self.pending = None
        self._requests = 0
        strand, parent = self.strand, getcurrent()
        if strand is None:
            strand = self.strand = self.run.idle.pop() if self.run.idle else Strand()
            context = copy_context()
            context.run(HOST.set, self)
            strand.execution, strand.gr_context = self, context
        if strand.parent is not parent:
            strand.parent = parent
        strand.switch(answer)
        if self.finished or self.dead:
            self._release(strand)

    def close(self) -> None:
        """Unwind the program, whose `finally` clauses run."""
        strand = self.strand
        if strand:
            self.dead = True
            strand.parent = getcurrent()
            strand.throw(GreenletExit)
            self._release(strand)

    def _release(self, strand: Strand) -> None:
        strand.execution = self.strand = None
        if strand:  # else an error has ended it
            strand.gr_context = None  # which knows this execution as its host
            self.run.idle.append(strand)

    def waiting(self) -> tuple[str, Any] | None:
        """The kind and the key of the request at which it waits."""
        pending = self.pending
        return None if pending is None else (pending[0], pending[1].key)

    @property
    def over(self) -> bool:
        return self.finished or self.dead

    @property
    def replaying(self) -> bool:
        return bool(self._past) or self.expected is not None

    # --- its contexts

    def add_context(self, context: Context) -> None:
        self.opened = True
        self._contexts.append(weakref.ref(context))

    def contexts(self) -> list[Context]:
        """Those that are still in use, in the order they were opened."""
        found = [context for ref in self._contexts if (context := ref()) is not None]
        if len(found) < len(self._contexts):
            self._contexts = [weakref.ref(context) for context in found]
        return found

    def places(self) -> tuple[tuple[Vocabulary, Node], ...]:
        """Where each context stands, with its vocabulary: what its text can be read from later."""
        return tuple((context.lm.vocabulary, context.node) for context in self.contexts()) if self.opened else ()

    # --- the program's requests

    def main(self) -> None:
        """The program from its beginning, on a strand."""
        value = self._function(self, *self._args, **self._kwargs)
        if self.dead:
            return
        if self._past:
            self._off_record(RETURN, None)
        if value is None and self.opened:
            raise ProgramError(
                f"program '{self.run.name}' returned nothing, so that its sample would be None; "
                "end it with `return str(text)`, or with whatever a sample is to be"
            )
        self._note(RETURN, None, value)
        self._add(-self._twist)
        self.finished = True

    def _drawn(self, dist: Any) -> tuple[Any, float | None]:
        """A fresh value, and its log-probability where the draw told it."""
        if self.expected is not None:
            self._arrived(SAMPLE, dist.key)
        if dist.in_context:
            dist.current()
        u, pin, answer = self._wait(SAMPLE, dist)
        if pin is not None and pin.kind is not SAMPLE:
            raise self._off_reference()
        value, log_q, after, increment = dist.settle(u, pin, answer)
        if increment != 0.0:
            self._add(increment)
        self._note(SAMPLE, dist.key, value, after)
        if self._rng is not None:
            self._rekey()
        return value, log_q

    def _scored(self, dist: Any, value: Any) -> float | None:
        """The log-probability of `value`, whose context goes on; None in a replay: it is in the weight already."""
        if self._past:
            _, kind, key, was, after = self._past.pop()
            if kind is not OBSERVE or key != dist.key or fingerprint(was) != fingerprint(value):
                self._diverged(kind, (key, was), OBSERVE, (dist.key, value))
            if after is not None:
                dist.follow(after, value)
            return None
        after = None
        if dist.in_context:
            log_p = dist.scored(value, self._wait(OBSERVE, dist.ask(value)))
            after = dist.move(value)
        else:
            log_p = dist.log_prob(value)
        self._note(OBSERVE, dist.key, value, after)
        return log_p

    def _wait(self, kind: str, request: Any) -> Any:
        """Hand `request` to the engine; returns its answer."""
        if self.dead:
            raise GreenletExit
        strand = self.strand
        if strand is None or getcurrent() is not strand:
            raise ProgramError(f"{self!r} was used outside of its own run; a program uses the p that it was given")
        if kind is not SAMPLE and self.expected is not None:
            self._arrived(kind, None)
        self.pending = (kind, request)
        return strand.parent.switch()  # pyright: ignore[reportOptionalMemberAccess]

    def _note(self, kind: str, key: Any, value: Any = None, after: Any = None) -> None:
        """Record a request."""
        if self.expected is not None:
            self._arrived(kind, key)
        self._requests += 1
        if self._requests > MAX_REQUESTS:
            raise self.run.endless(self, f"{MAX_REQUESTS} requests without a sample", "Let each round of a loop sample")
        self.tail = (self.tail, kind, key, value, after)

    def _add(self, log_weight: float) -> None:
        if not log_weight < math.inf:  # NaN, too
            raise ArgumentError(f"a log-weight of {log_weight}; use -inf to kill a particle")
        self.increment += log_weight
        if log_weight == -math.inf:
            self._die()

    def _die(self) -> NoReturn:
        self.dead = True
        self.increment = -math.inf
        self.tail = (self.tail, DEATH, None, self.places(), None)
        raise GreenletExit

    def _rekey(self) -> None:
        """Start the generator anew, with a key of this step and particle."""
        assert self._rng is not None
        self._rekeyed += 1
        if self._past:
            key = self._retrace(RNG, self._rekeyed)
        else:
            key = self._pinned(RNG) if self.pins else self.run.key(self.row)
            self._note(RNG, self._rekeyed, key)
        self._rng.bit_generator.state = generator(key, self._rekeyed).bit_generator.state

    # --- walking a record again

    def _retrace(self, kind: str, key: Any) -> Any:
        """The value of the next record, which must be of this request."""
        _, was, was_key, value, _ = self._past.pop()
        close = was_key == key or (isinstance(key, float) and math.isclose(was_key, key, **_CLOSE))
        if was is not kind or not close:
            self._diverged(was, was_key, kind, key)
        return value

    def _arrived(self, kind: str, key: Any) -> None:
        """The first request after a replay must be the one at which the parent waits."""
        if self.expected is not None:
            was, self.expected = self.expected, None
            if was != (kind, key):
                self._diverged(*was, kind, key)

    def _off_record(self, now: str, now_key: Any) -> NoReturn:
        _, was, was_key, _, _ = self._past[-1]
        self._diverged(was, was_key, now, now_key)

    def _diverged(self, was: str, was_key: Any, now: str, now_key: Any) -> NoReturn:
        number = len(backwards(self.tail)) - len(self._past)
        raise diverged(self.run.name, self.row, number, described(was, was_key), described(now, now_key))

    def _pinned(self, kind: str) -> Any:
        """The value of the next choice to take."""
        pin = self.pins.pop()
        if pin.kind is not kind:
            raise self._off_reference()
        return pin.value

    def _off_reference(self) -> ProgramError:
        return ProgramError(f"the reference path of program '{self.run.name}' is not one of its paths")


def fingerprint(value: Any) -> Any:
    """What of an observed value is compared in a replay."""
    number = getattr(value, "id", None)
    if number is not None:
        return number
    return value if isinstance(value, bool | int | float | str) else type(value).__name__
