"""One execution of a program: what it asks for, which is answered and recorded, and not asked again in a replay.

Where a program needs a draw or logits it waits, and the engine serves all that wait together. To fork a particle its
program is run afresh on the recorded values, up to the request at which the parent waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.base.errors import ProgramError, quote
from feynkac.programs.runtime.generators import make_generator
from feynkac.programs.runtime.record import OBSERVE, ONCE, QUERY, RETURN, RNG, SAMPLE, Tail
from feynkac.programs.runtime.recorder import fingerprint
from feynkac.programs.runtime.rows import ProgramCall
from feynkac.programs.runtime.running import Running

if TYPE_CHECKING:
    from feynkac.models.language.laws import Law
    from feynkac.programs.runtime.protocols import AnyDistribution, ContextDistribution
    from feynkac.programs.runtime.scheduler import Run


class Execution(Running):
    """One run of one program, as the engine and the handle `p` see it. All weights are in nats."""

    def __init__(self, run: Run, row: int, call: ProgramCall, tail: Tail = None) -> None:
        super().__init__(run, row, call, tail)
        self.twist = 0.0
        """The guess of the weight to come that is in the weight now."""
        self.inside_once = False
        """Whether `once` is running, where another run may be started."""
        self.generator: np.random.Generator | None = None
        """What `p.rng` gives; None before it is asked for."""
        self._rekeyed = 0

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

    def open_context(self, lm: Any, prompt: tuple[Any, ...], read: Callable[..., Any], law: Law) -> Any:
        """A context of this particle behind the token ids `read(*prompt)` (see `CausalLM.context`)."""
        histories, root = self.run.models.find_root(lm, prompt, read)
        return self.run.make_context(self, lm, histories, root, law)

    def open_served(self, lm: Any, prompt: str, sampling: Any) -> Any:
        """A context of this particle behind a text, of a model that is served (see `ServedLM.context`)."""
        if self.run.make_served is None:
            raise ProgramError(f"{quote(lm)} is no model for programs of this kind; write one with feynkac.program")
        return self.run.make_served(self, lm, prompt, sampling)

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

    def __repr__(self) -> str:
        return f"<particle {self.row} of '{self.run.name}', step {self.run.t}>"
