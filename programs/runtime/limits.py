"""Budgets of programs, and the error of one that does not stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from feynkac.base.errors import ProgramError
from feynkac.base.numbers import read_whole
from feynkac.programs.runtime.causes import show_texts

if TYPE_CHECKING:
    from feynkac.programs.runtime.execution import Execution

_ALLOW_MORE = "Bound its loops, or allow more with `.limited(max_steps=, max_tokens=)`"


@dataclass(frozen=True)
class Limits:
    """Budgets of each particle; None for none. Raises ArgumentError for what is no whole number."""

    max_steps: int | None = 10_000
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_steps", "max_tokens"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, read_whole(name, value, 1))

    def spend(self, execution: Execution, tokens: int) -> None:
        """End the execution with ProgramError if a context has grown past the budget."""
        if self.max_tokens is not None and tokens > self.max_tokens:
            execution.fail(make_endless(execution, f"a context of more than {self.max_tokens} tokens (max_tokens)"))


def make_endless(execution: Execution, what: str, advice: str = _ALLOW_MORE) -> ProgramError:
    """The error of a program that does not stop."""
    return ProgramError(
        f"program '{execution.run.name}', particle {execution.row}, does not stop: {what}. Its text so far: "
        f"{show_texts(execution)}. {advice}"
    )
