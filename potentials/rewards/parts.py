"""All samples in one call, or in several where that is too much for the memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from feynkac.base.capabilities import Remembers, has
from feynkac.base.contract import Rows
from feynkac.base.errors import PotentialError, is_out_of_memory
from feynkac.base.parts import run_in_halves

T = TypeVar("T")
_log = logging.getLogger(__name__)


def ask_in_parts(name: str, rows: Rows, state: Any, ask: Callable[[slice], T]) -> list[T]:
    """What `ask` gives of all of R samples, or of some of them at a time, if it runs out of memory.

    From then on fewer are asked about at a time, as far as `state` remembers it, and the results of the run say so.
    Raises what `ask` raises of a single sample.
    """
    n = len(rows)
    room: dict[str, int] = state.memory.share((name, "rows at once"), dict) if has(state, Remembers) else {}
    return run_in_halves(
        name,
        n,
        room,
        lambda most: [ask(slice(start, start + most)) for start in range(0, n, most)],
        lambda most, _: _tell(name, most, rows, state),
        lambda error: isinstance(error, PotentialError) and is_out_of_memory(error.__cause__),
    )


def _tell(name: str, asked: int, rows: Rows, state: Any) -> None:
    said = (
        f"memory ran out in '{name}', asked about {asked} samples; it is asked about fewer at a time from now on, "
        "which takes longer and changes nothing else"
    )
    _log.info("%s", said)
    if has(state, Remembers):
        state.memory.note(said, rows[:1])
