"""Readers of a run: each sees every step once, and none can change it.

An observer is any callable of one `Step`; it ends the run by returning True. Those here read one group: in a run of
several give them `step.group(g)`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

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


def walk(steps: Iterator[Step], *observers: Observer) -> Generator[Step, None, None]:
    """The steps of a run, each once every observer has seen it, up to the one at which one of them ends it.

    Raises FeynkacError for an observer that raises.
    """
    with close_after(*observers):
        for step in steps:
            ended = show(step, *observers)
            yield step
            if ended:
                return


def run(steps: Iterator[Step], *observers: Observer) -> Step:
    """Drive a run to its end, or to the step at which an observer returns True; the last step is the result.

    Every observer sees every step. Raises ArgumentError for an iterator without steps, FeynkacError for an observer
    that raises.
    """
    step = None
    for step in walk(steps, *observers):  # noqa: B007
        pass
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
    """Close the observers that can be closed, all of them. Raises FeynkacError for the first that then raises."""
    for failure in _close_all(observers):
        raise failure


@contextmanager
def close_after(*observers: Observer) -> Iterator[None]:
    """Close the observers when the block ends (see `close`); an error that ends it stays that error, with a note."""
    try:
        yield
    except Exception as error:
        for failure in _close_all(observers):
            error.add_note(str(failure))
        raise
    except BaseException:
        close(*observers)
        raise
    close(*observers)


def _close_all(observers: Sequence[Observer]) -> list[FeynkacError]:
    """What the observers raise that are closed."""
    failures = list[FeynkacError]()
    for observer in observers:
        if isinstance(observer, Closes):
            try:
                call(observer.close, of=observer, what="close", error=FeynkacError)
            except FeynkacError as failure:
                failures.append(failure)
    return failures


class JsonLines:
    """Writes the summary of each step as one line of JSON; what is infinite or unknown is null.

    A path is opened on the first step and closed with the run, and further runs that it sees are written behind the
    first; an open file is left open.
    """

    def __init__(self, target: str | os.PathLike[str] | TextIO) -> None:
        self._target = target
        self._summary = Summary()
        self._file: TextIO | None = None
        self._mode: Literal["w", "a"] = "w"

    def __call__(self, step: Step) -> None:
        if self._file is None:
            self._file, self._mode = _open_target(self._target, self._mode), "a"
        record = {name: _make_plain(value) for name, value in self._summary(step).items()}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()  # so that the run can be watched while it lasts

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None and file is not self._target:
            file.close()


def _open_target(target: str | os.PathLike[str] | TextIO, mode: Literal["w", "a"]) -> TextIO:
    return Path(target).open(mode, encoding="utf-8") if isinstance(target, (str, os.PathLike)) else target


def _make_plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def stop_when(condition: Callable[[Step], bool]) -> Observer:
    """An observer that ends the run at the first step for which `condition` holds."""
    return lambda step: bool(condition(step))
