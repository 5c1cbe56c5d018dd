"""Work on many rows: all at once, until that is too much for the memory, and then in parts that fit."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import TypeVar

from feynkac.base.errors import is_out_of_memory

T = TypeVar("T")


def run_in_halves(
    name: str,
    n: int,
    room: MutableMapping[str, int],
    run: Callable[[int], T],
    tell: Callable[[int, Exception], None],
    lacks_memory: Callable[[BaseException], bool] = is_out_of_memory,
) -> T:
    """What `run` gives, which works on `n` rows and is told how many it may take at once.

    `room`: of each work the rows that fit, where more were too many. `tell`: called when memory runs out for the first
    time, with the rows that were too many, and the error. Raises what `run` raises with one row at a time, and whatever
    does not say that it `lacks_memory`.
    """
    while True:
        most = max(min(room.get(name, n), n), 1)
        try:
            return run(most)
        except Exception as cause:
            if most == 1 or not lacks_memory(cause):
                raise
            if name not in room:
                tell(most, cause)
        room[name] = most // 2  # outside, where the error no longer holds what it ran out of
