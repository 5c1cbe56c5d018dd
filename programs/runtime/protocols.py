"""What the runtime asks of the language that programs are written in: it imports nothing of it.

The handle `p`, contexts and distributions are made above; these protocols are all that the runtime knows of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from feynkac.models.language.histories import Histories
    from feynkac.models.language.laws import Law
    from feynkac.models.language.nodes import Node
    from feynkac.programs.runtime.execution import Execution
    from feynkac.programs.runtime.record import Record
    from feynkac.programs.runtime.serving import Ask, Block, Inquiry


class AnyDistribution(Protocol):
    """A distribution, as an execution sees it."""

    key: Any
    """What must be equal when the program is run again."""
    in_context: bool
    """Whether it is a `ContextDistribution`."""

    def log_prob(self, value: Any, /) -> float: ...

    def settle(self, u: Any, pin: Record | None, answer: Any, /) -> tuple[Any, float | None, Any, float]:
        """A value, its log-probability in nats if known, where it leads, and the increment in nats."""
        ...

    def follow(self, after: Any, value: Any, /) -> Any:
        """A recorded value as a replay gives it to the program; `after` is where it led."""
        ...


class ContextDistribution(AnyDistribution, Protocol):
    """A distribution that depends on the model of a context."""

    def check_here(self) -> None:
        """Raises ProgramError outside of the particle that has opened the context."""
        ...

    def check_current(self) -> Any:
        """The context. Raises ProgramError if it has moved on."""
        ...

    def ask(self, value: Any = None, /) -> Ask | Block | Inquiry:
        """What to ask the model: the probability of `value`, or a draw."""
        ...

    def convert(self, value: Any, /) -> Any:
        """An observed value in the form that a draw has."""
        ...

    def score(self, value: Any, answer: Any, /) -> float:
        """The log-probability of `value` in nats, by the answer of the model."""
        ...

    def move(self, value: Any, /) -> Any:
        """Move the context on by an observed value; returns where it leads."""
        ...


class Place(Protocol):
    """Where a context stood at some moment."""

    def read(self) -> str:
        """The text behind its prompt."""
        ...


class OpenContext(Protocol):
    """A context: a text that grows behind a prompt."""

    lm: Any
    ended: bool

    @property
    def place(self) -> Place: ...

    @property
    def held(self) -> tuple[Histories, Node] | None:
        """Where in a tree of histories the model must be able to go on; None where it has ended, or runs elsewhere."""
        ...


MakeHandle: TypeAlias = "Callable[[Execution], Any]"
"""Makes the first argument of a program."""
MakeContext: TypeAlias = "Callable[[Execution, Any, Histories, Node, Law], Any]"
"""Makes a context of an execution: its model, its histories, where it stands, and the law of its next token."""
MakeServed: TypeAlias = "Callable[[Execution, Any, str, Any], Any]"
"""Makes a context of a model that is served: of an execution, the model, the prompt and the sampling options."""
CheckReturned: TypeAlias = "Callable[[str, Any], None]"
"""Raises ProgramError if what the program of this name has returned is no sample."""
