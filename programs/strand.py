"""The greenlets that programs run on."""

from __future__ import annotations

from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from feynkac.errors import ProgramError


class Strand(greenlet):
    """A greenlet that runs one execution after the other: a new one, with its stack, takes 15 microseconds."""

    execution: Any = None

    def __init__(self) -> None:
        super().__init__(_work)


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


def check_not_forked() -> None:
    """Raises ProgramError inside of a program, unless `p.once` is running: a fork would do the same again."""
    here = getcurrent()
    if isinstance(here, Strand) and not here.execution.inside_once:
        raise ProgramError(
            "a program calls steer: each fork of its particle would do so again. Run another program as a part with "
            "p.call(other), or steer once with p.once(feynkac.steer, ..., seed=int(p.rng.integers(2**62)))"
        )
