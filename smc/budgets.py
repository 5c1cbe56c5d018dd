"""Budgets: what a run may cost, and the count of it that ends it there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from feynkac.base.capabilities import CountsTokens, has
from feynkac.base.errors import ArgumentError
from feynkac.base.numbers import read_seconds, read_whole
from feynkac.smc.checks import name_of
from feynkac.smc.engine import Step


@dataclass(frozen=True)
class Budget:
    """What a run may cost: it ends after the step that reaches one of these limits, with what there is then.

    - `seconds`: of the wall clock, from when the run was called for, so that compiling constraints counts. A step, or a
      reward that is being asked, is not interrupted.
    - `tokens`: that went through the model, as `Result.forwarded_tokens` counts them, prompts included and all problems
      together. For models that count tokens.
    - `calls`: of the model, each of which moves all particles on together: one more token for all texts, one step of a
      sampler, one sample of a program for all that run. Particle Gibbs has them in each sweep of each chain.

    A budget is a value: each run that is given it starts anew. Raises ArgumentError for a limit that is no positive
    number, and where there is none.
    """

    seconds: float | None = None
    tokens: int | None = None
    calls: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", read_seconds("Budget: seconds", self.seconds))
        for name in ("tokens", "calls"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, read_whole(f"Budget: {name}", value, 1, ", or None for no limit"))
        if self.seconds is None and self.tokens is None and self.calls is None:
            raise ArgumentError("a Budget without a limit; give it seconds=, tokens= or calls=, or leave it out")

    def divide(self, parts: int) -> Budget | None:
        """The share that each of some parts has of `tokens` and `calls`, at least one; None where neither counts."""
        tokens, calls = (None if most is None else max(1, most // parts) for most in (self.tokens, self.calls))
        return None if tokens is None and calls is None else Budget(tokens=tokens, calls=calls)


class TokenCount:
    """Tokens that went through the model in all runs seen, one after the other, as those of particle Gibbs are."""

    def __init__(self) -> None:
        self._before = self._now = 0

    def __call__(self, step: Step) -> int | None:
        """The tokens so far; None where the state does not count them."""
        counts = step.state.forwarded if has(step.state, CountsTokens) else None
        if step.t == 0:
            self._before += self._now
        if counts is None:
            return None
        self._now = int(sum(counts))
        return self._before + self._now


class Spending:
    """An observer that ends a run at the limits of `budget`, or where `halt` is set; `why` then says which it was.

    Of one run, or of all that are shown to it one after the other.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        *,
        halt: Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget, self._halt, self._clock = budget, halt, clock
        self._count, self._began = TokenCount(), clock()
        self.calls = 0
        """Calls of the model so far."""
        self.tokens = 0
        """Tokens so far, where the budget limits them."""
        self.why: str | None = None
        """What ended the run, in words."""

    def __call__(self, step: Step) -> bool:
        """Whether the run ends with this step. Raises ArgumentError for tokens of a model that does not count them."""
        self.calls += 1
        if self.budget is not None and self.budget.tokens is not None:
            self.tokens = self._read_tokens(step, self.budget.tokens)
        return self.is_over()

    def add(self, *, calls: int = 0, tokens: int = 0) -> bool:
        """Count what no step shows; whether the run ends with it."""
        self.calls, self.tokens = self.calls + calls, self.tokens + tokens
        return self.is_over()

    def is_over(self) -> bool:
        """Whether a limit is reached."""
        if self.why is None and (self.budget is not None or self._halt is not None):
            self.why = self._find_reason()
        return self.why is not None

    def _read_tokens(self, step: Step, most: int) -> int:
        tokens = self._count(step)
        if tokens is not None:
            return tokens
        if not has(step.state, CountsTokens):
            raise ArgumentError(
                f"Budget(tokens={most}): '{name_of(step.state)}' does not count tokens; limit seconds= or calls= "
                "instead"
            )
        if len(step.groups) > 1:
            raise ArgumentError(
                f"Budget(tokens={most}): the tokens of {len(step.groups)} problems in one batch are not known here; "
                "limit seconds= or calls= instead, or steer them one by one"
            )
        return self.tokens  # nothing has gone through a model yet

    def _find_reason(self) -> str | None:
        if self._halt is not None and self._halt.is_set():
            return "the run was cancelled"
        if (limits := self.budget) is None:
            return None
        spent = self._clock() - self._began
        if limits.seconds is not None and spent >= limits.seconds:
            return f"the budget of {limits.seconds:g} seconds was used up: {spent:.2f} seconds have gone by"
        if limits.tokens is not None and self.tokens >= limits.tokens:
            tokens = "1 token" if limits.tokens == 1 else f"{limits.tokens} tokens"
            return f"the budget of {tokens} was used up: {self.tokens} went through the model"
        if limits.calls is not None and self.calls >= limits.calls:
            calls = "1 call" if limits.calls == 1 else f"{limits.calls} calls"
            return f"the budget of {calls} was used up, after {self.calls} of the model"
        return None
