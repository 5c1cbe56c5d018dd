"""The handle `p`: what a program asks of the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import numpy as np

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import take_only
from feynkac.programs.distribution import Distribution, T
from feynkac.programs.foreign import adapt
from feynkac.programs.numbers import read_nats, show
from feynkac.programs.runtime.record import CONDITION, FACTOR, OBSERVE, SAMPLE, TWIST
from feynkac.programs.runtime.recorder import fingerprint

if TYPE_CHECKING:
    from feynkac.programs.program import P, ProgramFunction, R
    from feynkac.programs.runtime.execution import Execution

Q = ParamSpec("Q")
S = TypeVar("S")


class Particle:
    """One run of a program: the `p` that it takes as its first argument. All weights are in nats."""

    __slots__ = ("_execution",)

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    @overload
    def sample(self, dist: Distribution[T], proposal: Any = None) -> T: ...
    @overload
    def sample(self, dist: Any, proposal: Any = None) -> Any: ...
    def sample(self, dist: Any, proposal: Any = None) -> Any:
        """A value from `dist`. Each sample ends a step of the engine, so that particles may be resampled there.

        With a `proposal` the value is drawn from that, and log dist - log proposal enters the weight. Raises
        ArgumentError where it can be seen that the proposal misses a value that `dist` may take.
        """
        if proposal is not None or not isinstance(dist, Distribution) or dist.composite:
            return self._compose(dist, proposal)
        execution = self._execution
        if execution.past:
            _, kind, key, value, after = execution.past.pop()
            if kind is not SAMPLE or key != dist.key:
                execution.diverge(kind, key, SAMPLE, dist.key)
            if after is not None:
                value = dist.follow(after, value)
            if execution.generator is not None:
                execution.rekey()
            return value
        return execution.draw(dist)[0]

    @overload
    def observe(self, dist: Distribution[T], value: Any) -> T: ...
    @overload
    def observe(self, dist: Any, value: Any) -> Any: ...
    def observe(self, dist: Any, value: Any) -> Any:
        """Weigh by the probability of `value` under `dist`, and return it; a token is appended to its context."""
        if not isinstance(dist, Distribution):
            dist = adapt(dist)
        if dist.composite:
            raise ArgumentError("a whole span cannot be observed; text.observe_text('...') observes a given text")
        execution = self._execution
        if execution.past and not dist.in_context:
            _, kind, key, was, _ = execution.past.pop()
            if kind is not OBSERVE or key != dist.key or not (was is value or fingerprint(was) == fingerprint(value)):
                execution.diverge(kind, (key, was), OBSERVE, (dist.key, value))
            return value
        value = dist.convert(value)
        execution.observe(dist, value)
        return value

    def condition(self, holds: bool) -> None:
        """Go on only if `holds` (a bool, or an array or tensor with one); else the particle dies here."""
        if holds is True:
            return
        if not isinstance(truth := take_only(holds), bool):
            advice = "a bool, as in `is not None`" if holds is None else "a bool; for a log-weight use p.factor"
            raise ArgumentError(f"p.condition({show(holds)}): give {advice}")
        if not truth:
            execution = self._execution
            if execution.past:
                execution.leave_record(CONDITION, False)
            execution.die()

    def factor(self, log_weight: float) -> None:
        """Multiply the particle's weight by exp(log_weight); -inf kills it.

        `log_weight`, in nats: a number of any kind, or an array or tensor with one entry. Raises ArgumentError for a
        bool, NaN, +inf and anything else.
        """
        execution = self._execution
        weight = read_nats("p.factor", log_weight)
        if execution.past:
            execution.retrace(FACTOR, weight)
        else:
            execution.note(FACTOR, weight)
            execution.weigh(weight)

    def twist(self, log_weight: float) -> None:
        """A guess of the log-weight still to come: replaced by the next one, and gone when the program returns.

        A finite guess changes no expectation, only how well particles are chosen. -inf promises that no weight is to
        come, and kills the particle.
        """
        execution = self._execution
        weight = read_nats("p.twist", log_weight)
        if execution.past:
            execution.retrace(TWIST, weight)
        else:
            execution.note(TWIST, weight)
            execution.weigh(weight - execution.twist)
        execution.twist = weight

    @overload
    def call(self, program: ProgramFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def call(self, program: Any, *args: Any, **kwargs: Any) -> Any: ...
    def call(self, program: Any, *args: Any, **kwargs: Any) -> Any:
        """Run another program as a part of this one, and return what it returns."""
        return program(self, *args, **kwargs)

    def once(self, f: Callable[Q, S], *args: Q.args, **kwargs: Q.kwargs) -> S:
        """f(*args, **kwargs), called once: a fork is given the same value, which must therefore not be changed.

        For what is expensive (a reward, another model) and for what is not the same each time (a clock, a service).
        """
        name = getattr(f, "__qualname__", type(f).__name__)
        return self._execution.call_once(name, lambda: f(*args, **kwargs))

    @property
    def rng(self) -> np.random.Generator:
        """A numpy generator of the particle's own; its draws are repeated in a replay, and differ in the children."""
        return self._execution.open_generator()

    def __repr__(self) -> str:
        return repr(self._execution)

    def _compose(self, dist: Any, proposal: Any) -> Any:
        """A sample of anything but a plain distribution."""
        if not isinstance(dist, Distribution):
            dist = adapt(dist)
            if proposal is None and not dist.composite:
                return self.sample(dist)
        if dist.composite:
            if proposal is not None:
                raise ArgumentError("a span takes no proposal; it is drawn token by token under its constraint")
            return dist.run(self)
        return self._propose(dist, adapt(proposal))

    def _propose(self, dist: Distribution, proposal: Distribution) -> Any:
        """A value from `proposal`, weighed by log dist - log proposal."""
        if proposal.composite:
            raise ArgumentError("a span cannot be a proposal; propose its tokens one by one")
        execution = self._execution
        if execution.past:
            value = dist.convert(self.sample(proposal))
            execution.score(dist, value)
            return value
        if miss := dist.find_missed(proposal):
            raise ArgumentError(
                f"the proposal {quote(proposal)} never gives {quote(miss[0])}, which {quote(dist)} may be; propose "
                "from a distribution that covers the target"
            )
        drawn, log_q = execution.draw(proposal)
        log_q = proposal.log_prob(drawn) if log_q is None else log_q
        value = dist.convert(drawn)
        log_p = execution.score(dist, value)
        assert log_p is not None
        execution.weigh(log_p - log_q)
        return value
