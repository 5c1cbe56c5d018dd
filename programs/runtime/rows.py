"""One particle between two steps of the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from feynkac.programs.runtime.record import DEATH, RETURN, Request, Tail, get_kind

if TYPE_CHECKING:
    from feynkac.programs.runtime.execution import Execution


class ProgramCall(NamedTuple):
    """A program with its arguments."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class ProgramRow(NamedTuple):
    """One particle between two steps. All that counts is in its record; the running program only saves a replay."""

    call: ProgramCall
    group: int
    tail: Tail = None
    request: Request | None = None
    """The request at which the program waits; None before it has begun."""
    places: tuple[Any, ...] = ()
    """Where its contexts stand (see `Execution.list_places`)."""
    execution: Execution | None = None

    @property
    def over(self) -> bool:
        """Whether the program has returned, or the particle is dead."""
        return get_kind(self.tail) in (RETURN, DEATH)

    def retire(self) -> ProgramRow:
        """The same particle, dead."""
        return ProgramRow(self.call, self.group, (self.tail, DEATH, None, self.places, None))
