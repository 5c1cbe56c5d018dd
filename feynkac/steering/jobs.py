"""What a call of `steer` is to whoever drives it: a job that goes on step by step, and what may end it early."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

from feynkac.base.contract import LogW
from feynkac.results.result import Result
from feynkac.smc.budgets import Spending
from feynkac.smc.observers import Observer
from feynkac.smc.progress import Progress
from feynkac.steering.recorder import Recorder, show_samples


@dataclass
class Control:
    """Who watches a job, and what may end it."""

    observers: Sequence[Observer] = ()
    spending: Spending = field(default_factory=Spending)
    progress: bool | None = False
    """Whether there is a bar; see `make_bar`."""

    def make_bar(self, total: int | None, unit: Any = "step") -> Progress:
        """The bar of a job of `total` units."""
        return Progress(total, shown=self.progress, unit=unit)


class Glimpse(NamedTuple):
    """The particles of a problem as they are now, for whoever watches the run."""

    t: int
    show: Callable[[], list[Any]]
    """Makes the samples."""
    log_weight: LogW
    """(N,) nats; their log-sum-exp is the log evidence so far."""
    sweep: int | None = None
    """The sweep of particle Gibbs, from 0."""


def look_at(recorder: Recorder) -> Glimpse | None:
    """The particles that a recorder saw last; None before it has seen any."""
    step, whole = recorder.step, recorder.whole
    if step is None or whole is None:
        return None
    return Glimpse(step.t, partial(show_samples, whole.state, recorder.members), step.log_weight)


class Job(Protocol):
    """A call of `steer` on its way."""

    @property
    def has_begun(self) -> bool:
        """Whether some problem has particles."""
        ...

    @property
    def has_particles(self) -> bool:
        """Whether every problem has particles to hand over."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether it has come to its end."""
        ...

    def advance(self, control: Control) -> Iterator[Any]:
        """Go on to the end, or to where `control` ends it, and pause after each part that can be looked at."""
        ...

    def look(self, g: int) -> Glimpse | None:
        """The particles of a problem now; None before it has any."""
        ...

    def collect(self, complete: bool) -> list[Result]:
        """What there is, one Result for each problem."""
        ...

    def explain_deaths(self) -> list[str | None]:
        """For each problem why all its particles died, None where one lives."""
        ...


def drive(job: Job, control: Control) -> bool:
    """Take a job to its end, or to where `control` ends it; whether it came to its end."""
    for _ in job.advance(control):
        pass
    return job.is_complete
