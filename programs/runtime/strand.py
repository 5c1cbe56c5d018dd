"""The greenlets that programs run on."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NoReturn

from greenlet import GreenletExit, getcurrent, greenlet


class Strand(greenlet):
    """A greenlet that runs one execution after the other: a new one, with its stack, takes 15 microseconds."""

    execution: Any = None
    printing = False
    """Whether a line of its execution is being written."""

    def __init__(self) -> None:
        super().__init__(_work)


_ABANDONED: list[Strand] = []
"""Kept, since a strand that is freed is told to end, and these go on."""


def find_home() -> greenlet:
    """The greenlet with which this thread has begun: its strands are entered from there, and from no other thread."""
    home = getcurrent()
    while (parent := home.parent) is not None:
        home = parent
    return home


def abandon(strand: Strand) -> NoReturn:
    """Leave the strand that runs, and never return to it: its program catches whatever would end it."""
    strand.execution = None
    _ABANDONED.append(strand)
    while True:
        with suppress(GreenletExit):
            strand.parent.switch()  # pyright: ignore[reportOptionalMemberAccess]


def _work(_: Any) -> None:
    # It looks itself up each time: a reference to the strand in its own frame would keep it for ever.
    here: Any = getcurrent
    while True:
        try:
            here().execution.main()
        except GreenletExit:
            if not here().execution.dead:
                raise  # the strand itself is freed
        here().parent.switch()
