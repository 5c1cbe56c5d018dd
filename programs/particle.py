"""The handle `p`: what a program asks of the engine.

A program runs on a greenlet. Where it needs a draw or logits it waits, and the engine serves all that wait together.
To fork a particle its program is run afresh on the recorded values, up to the request at which the parent waits.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from contextvars import copy_context
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from greenlet import GreenletExit, getcurrent, greenlet

from feynkac.errors import ArgumentError, ProgramError
from feynkac.programs.distributions import Distribution, missed
from feynkac.programs.foreign import adapted, generator
from feynkac.programs.record import (
    DEATH,
    FACTOR,
    OBSERVE,
    ONCE,
    QUERY,
    RETURN,
    RNG,
    SAMPLE,
    TWIST,
    Record,
    Tail,
    backwards,
    described,
    diverged,
)  # fmt: skip

if TYPE_CHECKING:
    from feynkac.models.context import Node
    from feynkac.programs.context import Context
    from feynkac.programs.scheduler import Run
    from feynkac.vocabulary import Vocabulary

MAX_REQUESTS = 1_000_000
"""Requests between two samples, after which a program is taken to run forever."""
_CLOSE = {"rel_tol": 1e-6, "abs_tol": 1e-9}  # a neural reward may differ by so much when it is asked again


class Strand(greenlet):
    """The greenlet of a particle."""

    particle: Particle


class Particle:
    """One run of a program: the `p` that it takes as its first argument. All weights are in nats."""

    def __init__(self, run: Run, row: int, call: tuple[Any, Sequence[Any], dict[str, Any]], tail: Tail = None) -> None:
        self.run, self.row = run, row
        self.increment = 0.0
        self.pending: tuple[str, Any] | None = None
        self.finished = self.dead = False
        self.tail = tail
        self.pins: list[Record] = []
        """Choices to take instead of drawing them, the next one last."""
        self.expected: tuple[str, Any] | None = None
        self._past = backwards(tail)
        self._function, self._args, self._kwargs = call
        self._twist = 0.0
        self._requests = 0
        self._rng: np.random.Generator | None = None
        self._rekeyed = 0
        self._contexts: list[weakref.ref[Context]] = []
        self.opened = False
        self._once = False
        self.strand: Strand | None = Strand(self._main)
        self.strand.gr_context = copy_context()
        self.strand.particle = self

    # --- what programs call

    def sample(self, dist: Any, proposal: Any = None) -> Any:
        """A value from `dist`. Each sample ends a step of the engine, so that particles may be resampled there.

        With a `proposal` the value is drawn from that, and log dist - log proposal enters the weight. Raises
        ArgumentError where it can be seen that the proposal misses a value that `dist` may take.
        """
        if not isinstance(dist, Distribution):
            dist = adapted(dist)
        if dist.composite or proposal is not None:
            return self._composed(dist, proposal)
        if self._past:
            _, kind, key, value, after = self._past.pop()
            if kind is not SAMPLE or key != dist.key:
                self._diverged(kind, key, SAMPLE, dist.key)
            if after is not None:
                value = dist.follow(after, value)
            if self._rng is not None:
                self._rekey()
            return value
        return self._drawn(dist)[0]

    def observe(self, dist: Any, value: Any) -> Any:
        """Weigh by the probability of `value` under `dist`, and return it; a token is appended to its context."""
        if not isinstance(dist, Distribution):
            dist = adapted(dist)
        if dist.composite:
            raise ArgumentError("a whole span cannot be observed; text.observe_text('...') observes a given text")
        if self._past and not dist.in_context:
            _, kind, key, was, _ = self._past.pop()
            if kind is not OBSERVE or key != dist.key or not (was is value or _print(was) == _print(value)):
                self._diverged(kind, (key, was), OBSERVE, (dist.key, value))
            return value
        value = dist.converted(value)
        log_p = self._scored(dist, value)
        if log_p is not None:
            self._add(log_p)
        return value

    def condition(self, holds: bool) -> None:
        """Go on only if `holds`; else the particle dies here, with weight zero."""
        if holds is True:
            return
        if not isinstance(holds, bool | np.bool_):
            raise ArgumentError(f"p.condition({holds!r}): give a bool; for a log-weight use p.factor")
        if not holds:
            if self._past:
                self._diverged(*self._past[-1][1:3], "condition", False)
            self._die()

    def factor(self, log_weight: float) -> None:
        """Multiply the particle's weight by exp(log_weight); -inf kills it."""
        weight = _nats("factor", log_weight)
        if self._past:
            self._retrace(FACTOR, weight)
        else:
            self._note(FACTOR, weight)
            self._add(weight)

    def twist(self, log_weight: float) -> None:
        """A guess of the log-weight still to come: replaced by the next one, and gone when the program returns.

        A finite guess changes no expectation, only how well particles are chosen. -inf promises that no weight is to
        come, and kills the particle.
        """
        weight = _nats("twist", log_weight)
        if self._past:
            self._retrace(TWIST, weight)
        else:
            self._note(TWIST, weight)
            self._add(weight - self._twist)
        self._twist = weight

    def call(self, program: Any, *args: Any, **kwargs: Any) -> Any:
        """Run another program as a part of this one, and return what it returns."""
        before = getattr(program, "args", ())
        return getattr(program, "function", program)(
            self, *before, *args, **{**getattr(program, "kwargs", {}), **kwargs}
        )

    def once(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """f(*args, **kwargs), called once: a fork is given the same value, which must therefore not be changed.

        For what is expensive (a reward, another model) and for what is not the same each time (a clock, a service).
        """
        name = getattr(f, "__qualname__", type(f).__name__)
        if self._past:
            return self._retrace(ONCE, name).value
        self._arrived(ONCE, name)
        if self.pins:
            value = self._pinned(ONCE).value
        else:
            before, self._once = self._once, True
            value = f(*args, **kwargs)
            self._once = before
        self._note(ONCE, name, value)
        return value

    @property
    def rng(self) -> np.random.Generator:
        """A numpy generator of the particle's own; its draws are repeated in a replay, and differ in the children."""
        if self._rng is None:
            self._rng = generator(0.0)
            self._rekey()
        return self._rng

    def __repr__(self) -> str:
        return f"<particle {self.row} of '{self.run.name}', step {self.run.t}>"

    # --- what distributions and contexts call

    def query(self, dist: Any, value: Any) -> float:
        """The log-probability of a value under a distribution of a context, without any effect."""
        value = dist.converted(value)
        if self._past:
            return self._retrace(QUERY, (dist.key, _print(value))).value
        answer = self._wait(QUERY, dist.ask(value))
        log_p = dist.scored(value, answer)
        self._note(QUERY, (dist.key, _print(value)), log_p)
        return log_p

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
        if not self.opened:
            return ()
        return tuple((context.lm.vocabulary, context.node) for context in self.contexts())

    # --- what the engine calls

    def resume(self, answer: Any) -> None:
        """Run on with `answer` to the next request, to the end, or to death."""
        self.pending = None
        self._requests = 0
        strand, parent = self.strand, getcurrent()
        assert strand is not None
        if strand.parent is not parent:
            strand.parent = parent
        strand.switch(answer)
        if strand.dead:
            self.strand = None  # it refers to us: without the cycle all is freed at once

    def close(self) -> None:
        """Unwind the program, whose `finally` clauses run."""
        strand, self.strand = self.strand, None
        if strand:
            self.dead = True
            strand.parent = getcurrent()
            strand.throw(GreenletExit)

    def waiting(self) -> tuple[str, Any] | None:
        """The kind and the key of the request at which it waits."""
        return None if self.pending is None else (self.pending[0], self.pending[1].key)

    @property
    def over(self) -> bool:
        return self.finished or self.dead

    @property
    def replaying(self) -> bool:
        return bool(self._past) or self.expected is not None

    @property
    def inside_once(self) -> bool:
        """Whether `once` is running, where another run may be started."""
        return self._once

    def _main(self, _: Any) -> None:
        value = self._function(self, *self._args, **self._kwargs)
        if self.dead:
            return
        if self._past:
            self._diverged(*self._past[-1][1:3], RETURN, None)
        if value is None and self.opened:
            raise ProgramError(
                f"program '{self.run.name}' returned nothing, so that its sample would be None; "
                "end it with `return str(text)`, or with whatever a sample is to be"
            )
        self._note(RETURN, None, value)
        self._add(-self._twist)
        self.finished = True

    # --- inner workings

    def _composed(self, dist: Any, proposal: Any) -> Any:
        if dist.composite:
            if proposal is not None:
                raise ArgumentError("a span takes no proposal; it is drawn token by token under its constraint")
            return dist.run(self)
        proposal = adapted(proposal)
        if proposal.composite:
            raise ArgumentError("a span cannot be a proposal; propose its tokens one by one")
        if not self._past and (miss := dist.missed(proposal) if dist.in_context else missed(dist, proposal)):
            raise ArgumentError(
                f"the proposal {proposal!r} never gives {miss[0]!r}, which {dist!r} may be; propose from a "
                "distribution that covers the target"
            )
        if self._past:
            value = self.sample(proposal)
            self._scored(dist, dist.converted(value))
            return dist.converted(value)
        value, log_q = self._drawn(proposal)
        log_q = proposal.log_prob(value) if log_q is None else log_q
        log_p = self._scored(dist, dist.converted(value))
        assert log_p is not None
        self._add(log_p - log_q)
        return dist.converted(value)

    def _drawn(self, dist: Any) -> tuple[Any, float | None]:
        """A fresh value, and its log-probability where the draw told it."""
        self._arrived(SAMPLE, dist.key)
        if dist.in_context:
            dist.current()
        u, pin, answer = self._wait(SAMPLE, dist)
        if pin is not None and pin.kind is not SAMPLE:
            raise ProgramError(f"the reference path of program '{self.run.name}' is not one of its paths")
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
            if kind is not OBSERVE or key != dist.key or _print(was) != _print(value):
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
        if self.dead:
            raise GreenletExit
        strand = self.strand
        if strand is None or getcurrent() is not strand:
            raise ProgramError(f"{self!r} was used outside of its own run; a program uses the p that it was given")
        if kind is not SAMPLE:
            self._arrived(kind, None)
        self.pending = (kind, request)
        return strand.parent.switch()  # pyright: ignore[reportOptionalMemberAccess]

    def _note(self, kind: str, key: Any, value: Any = None, after: Any = None) -> None:
        if self.expected is not None:
            self._arrived(kind, key)
        self._requests += 1
        if self._requests > MAX_REQUESTS:
            raise self.run.endless(self, f"{MAX_REQUESTS} requests without a sample")
        self.tail = Record(self.tail, kind, key, value, after)

    def _add(self, log_weight: float) -> None:
        if not log_weight < math.inf:  # NaN, too
            raise ArgumentError(f"a log-weight of {log_weight}; use -inf to kill a particle")
        self.increment += log_weight
        if log_weight == -math.inf:
            self._die()

    def _die(self) -> NoReturn:
        self.dead = True
        self.increment = -math.inf
        self.tail = Record(self.tail, DEATH, None, self.places(), None)
        raise GreenletExit

    def _retrace(self, kind: str, key: Any) -> Record:
        record = self._past.pop()
        same = record.kind is kind and (
            record.key == key or (isinstance(key, float) and math.isclose(record.key, key, **_CLOSE))
        )
        if not same:
            self._diverged(record.kind, record.key, kind, key)
        return record

    def _arrived(self, kind: str, key: Any) -> None:
        """The first request after a replay must be the one at which the parent waits."""
        if self.expected is not None:
            was, self.expected = self.expected, None
            if was != (kind, key):
                self._diverged(*was, kind, key)

    def _diverged(self, was: str, was_key: Any, now: str, now_key: Any) -> NoReturn:
        number = len(backwards(self.tail)) - len(self._past)
        raise diverged(self.run.name, self.row, number, described(was, was_key), described(now, now_key))

    def _pinned(self, kind: str) -> Record:
        record = self.pins.pop()
        if record.kind is not kind:
            raise ProgramError(f"the reference path of program '{self.run.name}' is not one of its paths")
        return record

    def _rekey(self) -> None:
        """Start the generator anew, with a key of this step and particle."""
        assert self._rng is not None
        self._rekeyed += 1
        if self._past:
            key = self._retrace(RNG, self._rekeyed).value
        else:
            key = self._pinned(RNG).value if self.pins else self.run.key(self.row)
            self._note(RNG, self._rekeyed, key)
        self._rng.bit_generator.state = generator(key, self._rekeyed).bit_generator.state


def current() -> Particle:
    """The particle whose program is running. Raises ProgramError outside of programs."""
    strand = getcurrent()
    if not isinstance(strand, Strand):
        raise ProgramError("a context belongs to one particle; open it inside of a program (see feynkac.program)")
    return strand.particle


def _nats(what: str, value: Any) -> float:
    if value.__class__ is float:
        number = value
    elif isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
    elif getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        number = float(value.item())
    else:
        raise ArgumentError(f"p.{what}({value!r}): give a number in nats; for a bool use p.condition")
    if not number < math.inf:
        raise ArgumentError(f"p.{what}({number}): give a number below infinity; -inf kills the particle")
    return number


def _print(value: Any) -> Any:
    """What of an observed value is compared in a replay."""
    number = getattr(value, "id", None)
    if number is not None:
        return number
    return value if isinstance(value, bool | int | float | str) else type(value).__name__
