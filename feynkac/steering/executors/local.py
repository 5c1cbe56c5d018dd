"""The executor that runs all pieces here, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from feynkac.base.numbers import read_whole
from feynkac.steering.executors.pieces import Call, Outcome, Piece, run_piece


@dataclass(frozen=True)
class LocalExecutor:
    """Runs a call in this process as another executor would on many: `jobs` pieces, one after the other.

        fk.steer(task, reward, particles=64, islands=8, seed=0, executor=fk.LocalExecutor(jobs=4))

    It is what `RayExecutor` is compared with: with the same `seed`, the same `jobs` and as many threads the results are
    equal bit for bit on one kind of machine. Memory is that of one piece at a time. Raises ArgumentError.
    """

    jobs: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "jobs", read_whole("jobs", self.jobs, 1))

    def run(
        self,
        call: Call,
        pieces: Sequence[Piece],
        keep: Callable[[Outcome], None],
        tell: Callable[[int, int], None],
    ) -> None:
        """See `Executor`."""
        for piece in pieces:
            outcome = run_piece(call, piece, Ticks(piece.number, tell))
            keep(outcome)
            if outcome.interrupted:
                raise KeyboardInterrupt


class Ticks:
    """An observer that counts the steps of a piece, and tells them."""

    def __init__(self, number: int, tell: Callable[[int, int], None]) -> None:
        self._number, self._tell, self._steps = number, tell, 0

    def __call__(self, step: Any) -> None:
        self._steps += 1
        self._tell(self._number, self._steps)
