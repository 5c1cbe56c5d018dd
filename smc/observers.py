"""Readers of a run: each sees every step once, and none can change it.

An observer is any callable of one `Step`; it ends the run by returning True. Those here read one group: in a run of
several give them `step.group(g)`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from tqdm.auto import tqdm

from feynkac.base.capabilities import Closes
from feynkac.base.errors import ArgumentError, FeynkacError, quote
from feynkac.base.lists import as_list
from feynkac.smc.checks import call
from feynkac.smc.engine import Step
from feynkac.smc.history import Summary


class Observer(Protocol):
    """Sees one weighted population; may have a method `close()`, called once when the run ends, however it ends."""

    def __call__(self, step: Step, /) -> bool | None:
        """True ends the run after this step, which is then its result; anything else lets it go on."""
        ...


def run(steps: Iterator[Step], *observers: Observer) -> Step:
    """Drive a run to its end, or to the step at which an observer returns True; the last step is the result.

    Every observer sees every step. Raises ArgumentError for an iterator without steps, FeynkacError for an observer
    that raises.
    """
    step = None
    try:
        for step in steps:
            if show(step, *observers):
                break
    finally:
        close(*observers)
    if step is None:
        raise ArgumentError("the run has no steps; an iterator of steps can be run only once")
    return step


def read_observers(observers: Any) -> list[Observer]:
    """The observers of a run. Raises ArgumentError for what is no list of functions."""
    listed = as_list(observers)
    if listed is None or any(isinstance(each, type) or not callable(each) for each in listed):
        raise ArgumentError(f"observers is {quote(observers)}; give a list of functions of one step")
    return listed


def show(step: Step, *observers: Observer) -> bool:
    """Show a step to every observer; whether one of them ends the run. What one raises arrives as FeynkacError."""
    answers = [call(each, step, of=each, t=step.t, error=FeynkacError) for each in observers]
    return any(answer is True for answer in answers)


def close(*observers: Observer) -> None:
    """Close the observers that can be closed."""
    for observer in observers:
        if isinstance(observer, Closes):
            observer.close()


class JsonLines:
    """Writes the summary of each step as one line of JSON; what is infinite or unknown is null.

    A path is opened on the first step and closed with the run; an open file is left open.
    """

    def __init__(self, target: str | os.PathLike[str] | TextIO) -> None:
        self._target = target
        self._summary = Summary()
        self._file: TextIO | None = None

    def __call__(self, step: Step) -> None:
        if self._file is None:
            self._file = _open_target(self._target)
        record = {name: _make_plain(value) for name, value in self._summary(step).items()}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()  # so that the run can be watched while it lasts

    def close(self) -> None:
        if self._file is not None and self._file is not self._target:
            self._file.close()


def _open_target(target: str | os.PathLike[str] | TextIO) -> TextIO:
    return Path(target).open("w", encoding="utf-8") if isinstance(target, (str, os.PathLike)) else target


def _make_plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Progress:
    """A progress bar with ESS, live particles and log evidence; `total` steps, or other units, if known.

    Shown on a terminal only, unless `force` is set; with `force=False` never.
    """

    def __init__(
        self, total: int | None = None, *, force: bool | None = None, file: TextIO | None = None, unit: str = "step"
    ) -> None:
        # tqdm's own rule: None disables the bar where the output is no terminal.
        self._bar = tqdm(total=total, disable=None if force is None else not force, file=file, unit=unit)

    def __call__(self, step: Step) -> None:
        n = len(step.log_weight)
        alive = int((step.log_weight > -np.inf).sum())
        self._bar.set_postfix_str(f"ESS {step.ess:.1f}/{n}, alive {alive}, log Z {step.log_z:.2f}", refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


class Budget:
    """Ends the run once it has used up its steps, seconds or proposals (rows extended: tokens, for a language model).

    The step that crosses the limit is completed; time counts from the construction.
    """

    def __init__(
        self,
        *,
        steps: int | None = None,
        seconds: float | None = None,
        proposals: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._steps = steps
        self._seconds = seconds
        self._limit = proposals
        self._clock = clock
        self._start = clock()
        self._seen = 0
        self._before: Step | None = None
        self.proposals = 0
        """Rows extended so far."""

    def __call__(self, step: Step) -> bool:
        self._seen += 1
        self.proposals += count_proposals(self._before if step.t else None, step)
        self._before = step
        return (
            (self._steps is not None and self._seen >= self._steps)
            or (self._seconds is not None and self._clock() - self._start >= self._seconds)
            or (self._limit is not None and self.proposals >= self._limit)
        )


def count_proposals(before: Step | None, step: Step) -> int:
    """The number of rows that the model extended to make `step`: those whose parent before it lived unfinished."""
    if before is None:
        return len(step.rows)
    return int((~before.done & (before.log_weight > -np.inf))[step.rows].sum())


def stop_when(condition: Callable[[Step], bool]) -> Observer:
    """An observer that ends the run at the first step for which `condition` holds."""
    return lambda step: bool(condition(step))
