"""One execution of a program, on a greenlet of its own: it waits for answers, records them, and walks a record again.

Where a program needs a draw or logits it waits, and the engine serves all that wait together. To fork a particle its
program is run afresh on the recorded values, up to the request at which the parent waits.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from greenlet import GreenletExit, getcurrent

from feynkac.base.errors import ArgumentError, ProgramError, quote
from feynkac.base.host import HOST
from feynkac.programs.runtime.causes import describe_place
from feynkac.programs.runtime.generators import make_generator
from feynkac.programs.runtime.output import end_line
from feynkac.programs.runtime.record import DEATH, OBSERVE, ONCE, QUERY, RETURN, RNG, SAMPLE, Request, Tail
from feynkac.programs.runtime.recorder import Recorder, fingerprint
from feynkac.programs.runtime.rows import ProgramCall
from feynkac.programs.runtime.strand import Strand, abandon

if TYPE_CHECKING:
    from feynkac.models.language.laws import Law
    from feynkac.programs.runtime.protocols import AnyDistribution, ContextDistribution, OpenContext, Place
    from feynkac.programs.runtime.scheduler import Run


class Execution(Recorder):
    """One run of one program, as the engine and the handle `p` see it. All weights are in nats."""

    def __init__(self, run: Run, row: int, call: ProgramCall, tail: Tail = None) -> None:
        super().__init__(run, row, tail)
        self.increment = 0.0
        self.twist = 0.0
        """The guess of the weight to come that is in the weight now."""
        self.pending: tuple[str, Any] | None = None
        """The kind of the request at which it waits, and what is asked."""
        self.finished = False
        self.dead = False
        self.inside_once = False
        """Whether `once` is running, where another run may be started."""
        self.opened = False
        """Whether the program has opened a context."""
        self.generator: np.random.Generator | None = None
        """What `p.rng` gives; None before it is asked for."""
        self.strand: Strand | None = None
        """What it runs on; None before it begins, and when it is over."""
        self.line = ""
        """What it has printed of a line that has not ended."""
        self._call = call
        self._rekeyed = 0
        self._contexts: list[weakref.ref[OpenContext]] = []

    # --- what the engine calls

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
            context.run(HOST.set, self)
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

    def main(self) -> None:
        """The program from its beginning, on a strand."""
        function, args, kwargs = self._call
        value = function(self.run.make_handle(self), *args, **kwargs)
        if self.failure is not None:
            raise self.failure
        if self.dead:
            return
        if self.past:
            self.leave_record(RETURN, None)
        if value is None and self.opened:
            raise ProgramError(
                f"program '{self.run.name}' returned nothing, so that its sample would be None; "
                "end it with `return str(text)`, or with whatever a sample is to be"
            )
        self.run.check_returned(self.run.name, value)
        self.note(RETURN, None, value)
        self.weigh(-self.twist)
        self.finished = True

    # --- its contexts

    def open_context(self, lm: Any, prompt: tuple[Any, ...], read: Callable[..., Any], law: Law) -> Any:
        """A context of this particle behind the token ids `read(*prompt)` (see `CausalLM.context`)."""
        histories, root = self.run.find_root(lm, prompt, read)
        return self.run.make_context(self, lm, histories, root, law)

    def open_served(self, lm: Any, prompt: str, sampling: Any) -> Any:
        """A context of this particle behind a text, of a model that is served (see `ServedLM.context`)."""
        if self.run.make_served is None:
            raise ProgramError(f"{quote(lm)} is no model for programs of this kind; write one with feynkac.program")
        return self.run.make_served(self, lm, prompt, sampling)

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

    # --- what the program asks for

    def draw(self, dist: AnyDistribution) -> tuple[Any, float | None]:
        """A fresh value, and its log-probability where the draw told it."""
        if self.expected is not None:
            self.arrive(SAMPLE, dist.key)
        if dist.in_context:
            dist.check_here()  # pyright: ignore[reportAttributeAccessIssue]
            dist.check_current()  # pyright: ignore[reportAttributeAccessIssue]
        u, pin, answer = self.wait(SAMPLE, dist)
        if pin is not None:
            self.check_pin(pin, SAMPLE)
        value, log_q, after, increment = dist.settle(u, pin, answer)
        if increment != 0.0:
            self.weigh(increment)
        self.note(SAMPLE, dist.key, value, after)
        if self.generator is not None:
            self.rekey()
        return value, log_q

    def score(self, dist: Any, value: Any) -> float | None:
        """The log-probability of `value`, whose context goes on; None in a replay: it is in the weight already."""
        if dist.in_context:
            dist.check_here()
        if self.past:
            _, kind, key, was, after = self.past.pop()
            if kind is not OBSERVE or key != dist.key or fingerprint(was) != fingerprint(value):
                self.diverge(kind, (key, was), OBSERVE, (dist.key, value))
            if after is not None:
                dist.follow(after, value)
            return None
        after = None
        if dist.in_context:
            log_p = dist.score(value, self.wait(OBSERVE, dist.ask(value)))
            after = dist.move(value)
        else:
            log_p = dist.log_prob(value)
        self.note(OBSERVE, dist.key, value, after)
        return log_p

    def observe(self, dist: AnyDistribution, value: Any) -> None:
        """Weigh by the probability of `value`, whose context goes on."""
        log_p = self.score(dist, value)
        if log_p is not None:
            self.weigh(log_p)

    def query(self, dist: ContextDistribution, value: Any) -> float:
        """The log-probability of a value under a distribution of a context, without any effect."""
        value = dist.convert(value)
        key = (dist.key, fingerprint(value))
        if self.past:
            return self.retrace(QUERY, key)
        log_p = dist.score(value, self.wait(QUERY, dist.ask(value)))
        self.note(QUERY, key, log_p)
        return log_p

    def call_once(self, name: str, f: Callable[[], Any]) -> Any:
        """The value of `f()`; a replay is given the recorded one."""
        if self.past:
            return self.retrace(ONCE, name)
        self.check_alive()
        self.arrive(ONCE, name)
        if self.pins:
            value = self.take_pin(ONCE)
        else:
            before = self.inside_once
            self.inside_once = True
            try:
                value = f()
            finally:
                self.inside_once = before
        self.note(ONCE, name, value)
        return value

    def open_generator(self) -> np.random.Generator:
        """A generator of the particle's own, which starts anew at each sample."""
        if self.generator is None:
            self.generator = make_generator(0.0)
            self.rekey()
        return self.generator

    def rekey(self) -> None:
        """Start the generator anew, with a key of this step and particle."""
        assert self.generator is not None
        self._rekeyed += 1
        if self.past:
            key = self.retrace(RNG, self._rekeyed)
        else:
            key = self.take_pin(RNG) if self.pins else self.run.draw_key(self.row)
            self.note(RNG, self._rekeyed, key)
        self.generator.bit_generator.state = make_generator(key, self._rekeyed).bit_generator.state

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
        user: Execution = (here.execution if isinstance(here, Strand) else None) or self
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

    def __repr__(self) -> str:
        return f"<particle {self.row} of '{self.run.name}', step {self.run.t}>"
