"""When a run is saved, what of it, and how it is taken up again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from feynkac.base.capabilities import Saves
from feynkac.base.errors import ArgumentError
from feynkac.base.numbers import read_real, read_whole
from feynkac.smc.checks import call
from feynkac.smc.engine import Step
from feynkac.steering.algorithms import Plan
from feynkac.steering.checkpoints.asked import check_plan, check_same, describe_run
from feynkac.steering.checkpoints.fields import read_fields, write_fields
from feynkac.steering.checkpoints.places import Places
from feynkac.steering.problems import Problems
from feynkac.steering.recorder import Recorder

SHARE = 20.0
"""Times as long as it took to save a run before it is saved again because of the time: 5 % of the run at most."""
_PARTS = ("asked", "options", "often", "run")
"""What a record has."""
_MADE_AGAIN = ("step", "whole")
"""What a recorder has of the last population, which is written by itself."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a run is saved, and how often (see `steer`).

        fk.steer(task, potential, checkpoint=fk.Checkpoint("run.checkpoint", every=10))

    The first step is saved, so that what cannot be is told at once, and so is the last. Between them, a run is saved
    after every `every` steps, if that is given, and at the first step that ends `seconds` or more after it was last
    saved, but no sooner than 20 times as long as saving took: so it takes 5 % of the time at most. Raises ArgumentError
    for numbers that are none.
    """

    path: str | os.PathLike[str]
    every: int | None = None
    seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.every is not None:
            object.__setattr__(self, "every", read_whole("every", self.every, 1, ", the steps between two savings"))
        object.__setattr__(self, "seconds", read_real("seconds", self.seconds, 0.0))


def read_checkpoint(given: Any) -> Checkpoint:
    """What `steer` was given as checkpoint=. Raises ArgumentError for anything else than a path or a `Checkpoint`."""
    if isinstance(given, Checkpoint):
        return given
    if isinstance(given, str | os.PathLike):
        return Checkpoint(given)
    raise ArgumentError(f"checkpoint is {given!r}; give a path, or fk.Checkpoint(path, every=steps)")


class Saved:
    """A checkpoint that was read. Raises ArgumentError for a file that is none, or is damaged."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from feynkac.steering.checkpoints.files import read_file

        self.path = Path(path)
        self.record, self.tensors = read_file(self.path)
        if missing := [name for name in _PARTS if name not in self.record]:
            raise ArgumentError(f"the checkpoint '{path}' has no {missing[0]} in its record; start the run again")

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the run is saved on, and how often: as before."""
        return replace(Checkpoint(self.path), **self.record["often"])

    def read_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """The options of `steer` by which the run samples; those `given` again, and not None, must be the same.

        Raises ArgumentError for others, and for a resampler of the user's own that is not given again: a file holds
        none.
        """
        known, own = self.record["options"], given["resampler"]
        asked = {name: value for name, value in given.items() if value is not None and not callable(value)}
        check_same(self.path, {name: known[name] for name in asked}, asked)
        if known["resampler"] is not None:
            return known
        if not callable(own):
            raise ArgumentError(
                f"the run in '{self.path}' has a resampler of its own, which a file cannot hold; give it again as "
                "resampler="
            )
        return {**known, "resampler": own}


class Pace:
    """When a run is saved again: see `Checkpoint`."""

    def __init__(self, every: int | None, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._seconds, self._clock = every, seconds, clock
        self.last: int | None = None
        """The step that was saved last."""
        self._took, self._ended = 0.0, clock()

    def is_due(self, t: int) -> bool:
        """Whether step `t`, which has just ended, is to be saved."""
        if self.last is None or (self._every is not None and t - self.last >= self._every):
            return True
        return self._clock() - self._ended >= max(self._seconds, SHARE * self._took)

    def note(self, t: int, took: float = 0.0) -> None:
        """Step `t` has been saved just now, which took so many seconds."""
        self.last, self._took, self._ended = t, took, self._clock()


class Saver:
    """Saves one run on its way: an observer behind all others. With `saved` it begins by taking that up."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        problems: Problems,
        plan: Plan,
        seed: int,
        saved: Saved | None = None,
    ) -> None:
        self._checkpoint, self._saved = checkpoint, saved
        self._pace = Pace(checkpoint.every, checkpoint.seconds)
        self._options = {
            **{name: getattr(plan, name) for name in ("algorithm", "particles", "islands")},
            "ess_threshold": float(plan.ess_threshold),
            "resampler": plan.resampler if isinstance(plan.resampler, str) else None,
            "seed": seed,
        }
        self.path = Path(checkpoint.path)
        self._asked = describe_run(problems)
        self._known = Places(problems)
        if saved is None:
            check_path(self.path)
        else:
            check_same(self.path, saved.record["asked"], self._asked)

    def follow(self, model: Any, recorders: Sequence[Recorder]) -> Any:
        """The model that is to be run, in place of `model`, one that `Saves`. Told before the run begins."""
        self._recorders = recorders
        self._model: Saves = call(model.prepare_saving, of=model, what="prepare_saving")
        return self._model

    def take_up(self) -> Step | None:
        """The population to go on from, of which the recorders then know; None where the run begins."""
        if self._saved is None:
            return None
        from feynkac.steering.checkpoints.trees import Reader

        saved, self._saved = self._saved, None  # its tensors are as large as the run
        try:
            found = Reader(saved.tensors, self._known).read(saved.record["run"])
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as cause:
            raise ArgumentError(f"the checkpoint '{self.path}' is damaged: {cause!r} in its record") from cause
        state = call(self._model.load, found["state"], of=self._model, what="load")
        step = Step(state=state, **found["step"])
        for recorder, seen in zip(self._recorders, found["recorders"], strict=True):
            write_fields(recorder, seen)
            recorder.step, recorder.whole = step.group(recorder.group), step
        self._pace.note(step.t)
        return step

    def __call__(self, step: Step) -> None:
        if self._pace.is_due(step.t):
            self.save(step)

    def save(self, step: Step) -> None:
        """Save the run as it is after `step`, unless that was saved. Raises ArgumentError for what cannot be."""
        if self._pace.last == step.t:
            return
        from feynkac.steering.checkpoints.files import write_file
        from feynkac.steering.checkpoints.trees import Writer

        began, writer = time.monotonic(), Writer(self._known)
        run = {
            "step": {each.name: getattr(step, each.name) for each in fields(step) if each.name != "state"},
            "state": call(self._model.save, step.state, of=self._model, what="save", t=step.t),
            "recorders": [read_fields(recorder, _MADE_AGAIN) for recorder in self._recorders],
        }
        often = {"every": self._checkpoint.every, "seconds": self._checkpoint.seconds}
        record = {"asked": self._asked, "options": self._options, "often": often, "run": writer.write(run)}
        write_file(self.path, record, writer.tensors)
        self._pace.note(step.t, time.monotonic() - began)


def check_path(path: Path) -> None:
    """Raises ArgumentError for a path that no new checkpoint can be written to."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        what = "is a folder" if path.is_dir() else "lies in no folder that there is"
        raise ArgumentError(f"checkpoint='{path}' {what}; give the path of a file, such as 'run.checkpoint'")
    if path.exists():
        raise ArgumentError(
            f"checkpoint='{path}' is there already; fk.resume(path, model, *potentials) goes on with its run, or gives "
            "its result where it has ended; remove the file to begin another run"
        )


def begin_saving(given: Any, problems: Problems, plan: Plan, seed: int, executor: Any) -> Saver:
    """What saves a run, given `checkpoint=`: of a run that begins, or of one that was `Saved` and goes on.

    Raises ArgumentError for a run that cannot be saved, for a path that is taken, and for another run than was saved.
    """
    check_plan(plan, executor)
    saved = given if isinstance(given, Saved) else None
    return Saver(read_checkpoint(given) if saved is None else saved.checkpoint, problems, plan, seed, saved)
