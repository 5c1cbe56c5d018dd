"""When a run is saved, what of it, and how it is taken up again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_real, read_whole
from feynkac.base.paths import check_file, read_path
from feynkac.steering.algorithms import Plan
from feynkac.steering.checkpoints.asked import check_plan, check_same, describe_run
from feynkac.steering.checkpoints.places import Places
from feynkac.steering.checkpoints.saved import Saved
from feynkac.steering.problems import Problems

SHARE = 20.0
"""Times as long as it took to save a run before it is saved again because of the time: 5 % of the run at most."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a run is saved, and how often (see `steer`).

        fk.steer(task, potential, checkpoint=fk.Checkpoint("run.checkpoint", every=10))

    The first step is saved, so that what cannot be is told at once, and so is the last. Between them, a run is saved
    after every `every` steps, if that is given, and at the first step that ends `seconds` or more after it was last
    saved, but no sooner than 20 times as long as saving took: so it takes 5 % of the time at most. Of "gibbs" sweeps
    are saved in place of steps; one that was cut short is made again. Raises ArgumentError for numbers that are none,
    and for what is no path.
    """

    path: str | os.PathLike[str]
    every: int | None = None
    seconds: float = 30.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", read_path("Checkpoint: path", self.path))
        if self.every is not None:
            object.__setattr__(self, "every", read_whole("every", self.every, 1, ", the steps between two savings"))
        object.__setattr__(self, "seconds", read_real("seconds", self.seconds, 0.0))


def read_checkpoint(given: Any) -> Checkpoint:
    """What `steer` was given as checkpoint=. Raises ArgumentError for anything else than a path or a `Checkpoint`."""
    if isinstance(given, Checkpoint):
        return given
    if isinstance(given, str | os.PathLike):
        return Checkpoint(given)
    raise ArgumentError(f"checkpoint is {quote(given)}; give a path, or fk.Checkpoint(path, every=steps)")


class Pace:
    """When a run is saved again: see `Checkpoint`."""

    def __init__(self, every: int | None, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._seconds, self._clock = every, seconds, clock
        self.last: int | None = None
        """The part that was saved last."""
        self._took, self._ended = 0.0, clock()

    def is_due(self, t: int) -> bool:
        """Whether part `t`, which has just ended, is to be saved: a step, or a sweep."""
        if self.last is None or (self._every is not None and t - self.last >= self._every):
            return True
        return self._clock() - self._ended >= max(self._seconds, SHARE * self._took)

    def note(self, t: int, took: float = 0.0) -> None:
        """Part `t` has been saved just now, which took so many seconds."""
        self.last, self._took, self._ended = t, took, self._clock()


class Saver:
    """Saves one call of `steer` on its way. With `saved` it begins by taking that up."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        problems: Problems,
        plan: Plan,
        seed: int,
        saved: Saved | None = None,
    ) -> None:
        self._checkpoint, self._saved = checkpoint, saved
        self.pace = Pace(checkpoint.every, checkpoint.seconds)
        """When it is due; who takes a run up is to note so."""
        self._options = {
            **{name: getattr(plan, name) for name in ("algorithm", "particles", "islands", "sweeps")},
            "ess_threshold": float(plan.ess_threshold),
            "resampler": plan.resampler if isinstance(plan.resampler, str) else None,
            "moves": None if plan.moves is None else plan.moves.describe(),
            "seed": seed,
        }
        self.path = Path(checkpoint.path)
        self._asked = describe_run(problems)
        self._known = Places(problems)
        if saved is None:
            check_path(self.path)
        else:
            check_same(self.path, saved.record["asked"], self._asked)

    def take_up(self) -> Any:
        """The tree to go on from; None where the run begins."""
        if self._saved is None:
            return None
        from feynkac.steering.checkpoints.trees import Reader

        saved, self._saved = self._saved, None  # its tensors are as large as the run
        try:
            return Reader(saved.tensors, self._known).read(saved.record["run"])
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as cause:
            raise ArgumentError(f"the checkpoint '{self.path}' is damaged: {quote(cause)} in its record") from cause

    def save(self, t: int, make: Callable[[], Any]) -> None:
        """Save the tree that is made after part `t`, unless that was saved. Raises ArgumentError for what cannot be."""
        if self.pace.last == t:
            return
        from feynkac.steering.checkpoints.files import write_file
        from feynkac.steering.checkpoints.trees import Writer

        began, writer = time.monotonic(), Writer(self._known)
        run = writer.write(make())
        often = {"every": self._checkpoint.every, "seconds": self._checkpoint.seconds}
        record = {"asked": self._asked, "options": self._options, "often": often, "run": run}
        write_file(self.path, record, writer.tensors)
        self.pace.note(t, time.monotonic() - began)


def check_path(path: Path) -> None:
    """Raises ArgumentError for a path that no new checkpoint can be written to."""
    check_file(path, f"checkpoint='{path}'")
    if os.path.exists(path):
        raise ArgumentError(
            f"checkpoint='{path}' is there already; fk.resume(path, model, *potentials) goes on with its run, or gives "
            "its result where it has ended; remove the file to begin another run"
        )


def begin_saving(given: Any, problems: Problems, plan: Plan, seed: int, executor: Any) -> Saver:
    """What saves a run, given `checkpoint=`: of a run that begins, or of one that was `Saved` and goes on.

    Raises ArgumentError for a run that cannot be saved, for a path that is taken, and for another run than was saved.
    """
    check_plan(plan, problems.models, executor)
    saved = given if isinstance(given, Saved) else None
    checkpoint = read_checkpoint(given) if saved is None else Checkpoint(saved.path, **saved.record["often"])
    return Saver(checkpoint, problems, plan, seed, saved)
