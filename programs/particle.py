"""The handle `p`: what a program asks of the engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.base.errors import ArgumentError
from feynkac.programs.distributions import Distribution, missed
from feynkac.programs.foreign import adapted, generator
from feynkac.programs.runtime.execution import Execution, fingerprint
from feynkac.programs.runtime.record import FACTOR, OBSERVE, ONCE, QUERY, SAMPLE, TWIST

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM
    from feynkac.programs.context import Context


class Particle(Execution):
    """One run of a program: the `p` that it takes as its first argument. All weights are in nats."""

    def sample(self, dist: Any, proposal: Any = None) -> Any:
        """A value from `dist`. Each sample ends a step of the engine, so that particles may be resampled there.

        With a `proposal` the value is drawn from that, and log dist - log proposal enters the weight. Raises
        ArgumentError where it can be seen that the proposal misses a value that `dist` may take.
        """
        if proposal is not None or not isinstance(dist, Distribution) or dist.composite:
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
            if kind is not OBSERVE or key != dist.key or not (was is value or fingerprint(was) == fingerprint(value)):
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
            advice = "a bool, as in `is not None`" if holds is None else "a bool; for a log-weight use p.factor"
            raise ArgumentError(f"p.condition({holds!r}): give {advice}")
        if not holds:
            if self._past:
                self._off_record("condition", False)
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
            return self._retrace(ONCE, name)
        self._arrived(ONCE, name)
        if self.pins:
            value = self._pinned(ONCE)
        else:
            before, self.inside_once = self.inside_once, True
            try:
                value = f(*args, **kwargs)
            finally:
                self.inside_once = before
        self._note(ONCE, name, value)
        return value

    @property
    def rng(self) -> np.random.Generator:
        """A numpy generator of the particle's own; its draws are repeated in a replay, and differ in the children."""
        if self._rng is None:
            self._rng = generator(0.0)
            self._rekey()
        return self._rng

    def query(self, dist: Any, value: Any) -> float:
        """The log-probability of a value under a distribution of a context, without any effect."""
        value = dist.converted(value)
        key = (dist.key, fingerprint(value))
        if self._past:
            return self._retrace(QUERY, key)
        log_p = dist.scored(value, self._wait(QUERY, dist.ask(value)))
        self._note(QUERY, key, log_p)
        return log_p

    def open_context(
        self, lm: CausalLM, prompt: tuple[Any, ...], read: Callable[..., tuple[int, ...]], temperature: float
    ) -> Context:
        """A context of this particle behind the token ids `read(*prompt)` (see `CausalLM.context`)."""
        from feynkac.programs.context import Context

        histories, root = self.run.root(lm, prompt, read)
        return Context(self, lm, histories, root, temperature)

    def __repr__(self) -> str:
        return f"<particle {self.row} of '{self.run.name}', step {self.run.t}>"

    def _composed(self, dist: Any, proposal: Any) -> Any:
        """A sample of anything but a plain distribution."""
        if not isinstance(dist, Distribution):
            dist = adapted(dist)
            if proposal is None and not dist.composite:
                return self.sample(dist)
        if dist.composite:
            if proposal is not None:
                raise ArgumentError("a span takes no proposal; it is drawn token by token under its constraint")
            return dist.run(self)
        return self._proposed(dist, adapted(proposal))

    def _proposed(self, dist: Any, proposal: Any) -> Any:
        """A value from `proposal`, weighed by log dist - log proposal."""
        if proposal.composite:
            raise ArgumentError("a span cannot be a proposal; propose its tokens one by one")
        if self._past:
            value = self.sample(proposal)
            self._scored(dist, dist.converted(value))
            return dist.converted(value)
        if miss := dist.missed(proposal) if dist.in_context else missed(dist, proposal):
            raise ArgumentError(
                f"the proposal {proposal!r} never gives {miss[0]!r}, which {dist!r} may be; propose from a "
                "distribution that covers the target"
            )
        value, log_q = self._drawn(proposal)
        log_q = proposal.log_prob(value) if log_q is None else log_q
        log_p = self._scored(dist, dist.converted(value))
        assert log_p is not None
        self._add(log_p - log_q)
        return dist.converted(value)


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
