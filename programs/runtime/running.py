"""A program that runs on a greenlet of its own: it waits for answers, is woken with them, and comes to an end."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NoReturn, cast

from greenlet import GreenletExit, getcurrent

from feynkac.base.errors import ArgumentError, ProgramError, quote
from feynkac.base.host import HOST
from feynkac.programs.runtime.causes import describe_place
from feynkac.programs.runtime.output import end_line
from feynkac.programs.runtime.record import DEATH, SAMPLE, Request, Tail
from feynkac.programs.runtime.recorder import Recorder
from feynkac.programs.runtime.rows import ProgramCall
from feynkac.programs.runtime.strand import Strand, abandon

if TYPE_CHECKING:
    from feynkac.programs.runtime.execution import Execution
    from feynkac.programs.runtime.protocols import OpenContext, Place
    from feynkac.programs.runtime.scheduler import Run


class Running(Recorder):
    """A program on its strand, with its weight in nats and the contexts that it holds.

    What it runs there, and what it may ask for, is the affair of `Execution`.
    """

    def __init__(self, run: Run, row: int, call: ProgramCall, tail: Tail = None) -> None:
        super().__init__(run, row, tail)
        self.increment = 0.0
        self.pending: tuple[str, Any] | None = None
        """The kind of the request at which it waits, and what is asked."""
        self.finished = False
        self.dead = False
        self.opened = False
        """Whether the program has opened a context."""
        self.strand: Strand | None = None
        """What it runs on; None before it begins, and when it is over."""
        self.line = ""
        """What it has printed of a line that has not ended."""
        self._call = call
        self._contexts: list[weakref.ref[OpenContext]] = []

    @property
    def request(self) -> Request | None:
        """The request at which it waits; None while it runs and when it is over."""
        pending = self.pending
        return None if pending is None else (pending[0], pending[1].key)

    @property
    def function(self) -> Callable[..., Any]:
        """What it runs."""
        return self._call.function

    @property
    def over(self) -> bool:
        """Whether the program has returned, or the particle is dead."""
        return self.finished or self.dead

    def resume(self, answer: Any) -> None:
        """Run on with `answer` to the next request, to the end, or to death."""
        self.pending = None
        if self.failure is None:
            self.requests = 0
        strand = self.strand
        parent = getcurrent()
        if strand is None:
            strand = self.strand = self.run.idle.pop() if self.run.idle else Strand()
            context = copy_context()
            context.run(HOST.set, cast("Execution", self))
            strand.execution = self
            strand.gr_context = context
        if strand.parent is not parent:
            strand.parent = parent
        strand.switch(answer)
        self._settle(strand)

    def close(self) -> None:
        """Unwind the program, whose `finally` clauses run."""
        strand = self.strand
        if strand:
            self.dead, self.requests = True, math.inf
            strand.parent = getcurrent()
            strand.throw(GreenletExit)
            self._settle(strand)
        elif self.line:  # an error has ended it
            end_line(self)

    def _settle(self, strand: Strand) -> None:
        """Give the strand back if the program is over. Raises ProgramError if it had to be abandoned."""
        if self.strand is None and self.failure is not None:
            raise self.failure
        if self.finished or self.dead:
            self._release(strand)

    def _release(self, strand: Strand) -> None:
        if self.line:
            end_line(self)
        strand.execution = self.strand = None
        if strand:  # else an error has ended it
            strand.gr_context = None  # which knows this execution as its host
            self.run.idle.append(strand)

    # --- what the program calls

    def wait(self, kind: str, request: Any) -> Any:
        """Hand `request` to the engine; returns its answer. Fails outside of the program's own run."""
        self.check_alive()
        strand = self.check_here(self)
        if kind is not SAMPLE and self.expected is not None:
            self.arrive(kind, None)
        self.pending = (kind, request)
        try:
            return strand.parent.switch()  # pyright: ignore[reportOptionalMemberAccess]
        except GreenletExit:  # it is closed, or freed with its run
            self.dead, self.requests = True, math.inf
            raise

    def check_here(self, what: Any) -> Strand:
        """The strand that it runs on. Raises ProgramError where `what`, which is its own, is used by anybody else."""
        here = getcurrent()
        if self.strand is not None and here is self.strand:
            return self.strand
        user: Running = (here.execution if isinstance(here, Strand) else None) or self
        user.fail(
            ProgramError(
                f"{quote(what)} was used outside of its own run, such as from another thread or by another particle; a "
                "program uses the p that it was given, and the contexts that it has opened, where it was given them"
            )
        )

    def weigh(self, log_weight: float) -> None:
        """Add nats to the increment; -inf kills the particle. Raises ArgumentError for NaN and infinity."""
        if not log_weight < math.inf:  # NaN, too
            raise ArgumentError(f"a log-weight of {log_weight}; use -inf to kill a particle")
        self.increment += log_weight
        if log_weight == -math.inf:
            self.die()

    def die(self, why: str = "") -> NoReturn:
        """End the program here, with weight zero; `why`, if it is known, is told behind the line."""
        self.check_alive()
        self.dead, self.requests = True, math.inf
        self.increment = -math.inf
        self.tail = (self.tail, DEATH, describe_place(self.function, why), self.list_places(), None)
        raise GreenletExit

    def abandon(self) -> NoReturn:
        """Leave a program that catches whatever ends it, and never return to it."""
        strand = self.strand
        if strand is None or getcurrent() is not strand:
            raise self.failure or GreenletExit
        self.failure = self.failure or ProgramError(
            f"program '{self.run.name}', particle {self.row}: it was told {self.swallowed - 1} times that it has "
            "ended, and goes on; let what ends a particle pass: write `except Exception:`, not `except BaseException:`"
        )
        self.strand = None
        abandon(strand)

    # --- its contexts

    def add_context(self, context: OpenContext) -> None:
        """Keep the place of a context in the model's cache for as long as the program holds it."""
        self.opened = True
        self._contexts.append(weakref.ref(context))

    def list_contexts(self) -> list[OpenContext]:
        """Those that are still in use, in the order they were opened."""
        found = [context for ref in self._contexts if (context := ref()) is not None]
        if len(found) < len(self._contexts):
            self._contexts = [weakref.ref(context) for context in found]
        return found

    def list_places(self) -> tuple[Place, ...]:
        """Where each context stands: what its text can be read from later."""
        if not self.opened:
            return ()
        return tuple(context.place for context in self.list_contexts())
