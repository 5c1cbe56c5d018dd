"""What a call of `steer` is cut into, and how one piece of it is run, in whatever process.

A *unit* is one island of one problem. Units are numbered through all problems, and each has random numbers by its
number: those of a run are therefore the same however a call is cut, and where. A *piece* is a range of units, which run
in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from feynkac.base.capabilities import Bounded, Joins
from feynkac.base.errors import FeynkacError
from feynkac.results.result import Result
from feynkac.smc.budgets import Budget, Spending
from feynkac.smc.observers import Observer
from feynkac.smc.rng import Streams
from feynkac.steering.algorithms import SWEEPS, Plan
from feynkac.steering.jobs import Control, Job, drive
from feynkac.steering.problems import Problems
from feynkac.steering.starting import start

IN_TURNS = ("gibbs", "exact")
"""Algorithms whose problems take turns rather than share a batch."""


@dataclass(frozen=True)
class Call:
    """A call of `steer`, with all that its pieces need."""

    problems: Problems
    plan: Plan
    seed: int
    budget: Budget | None = None
    """What each piece may cost; seconds are counted by whoever waits for the pieces."""

    @property
    def islands(self) -> int:
        """Units of each problem."""
        return 1 if self.plan.algorithm == "exact" else self.plan.islands

    def __len__(self) -> int:
        """The number of units."""
        return len(self.problems) * self.islands

    def take(self, units: range) -> Problems:
        """The problems of some units, one of which each unit is."""
        return self.problems.take(*(unit // self.islands for unit in units))


@dataclass(frozen=True)
class Piece:
    """Some units of a call."""

    number: int
    units: range


@dataclass(frozen=True)
class Outcome:
    """What became of a piece."""

    piece: Piece
    results: list[Result] = field(default_factory=list)
    """Those of its first units, as far as there are any."""
    deaths: list[str | None] = field(default_factory=list)
    """For each of them why all particles died, None where one lives."""
    complete: bool = False
    """Whether all units came to their end."""
    interrupted: bool = False
    """Whether Ctrl-C came while it ran."""
    error: FeynkacError | None = None
    cause: BaseException | None = None
    steps: int = 0
    """Calls of the model."""
    spent: str | None = None
    """The limit that it has reached, in words."""
    lost: int = 0
    """Workers that died over it before one brought it to its end."""


@runtime_checkable
class Executor(Protocol):
    """Runs the pieces of calls somewhere, for `steer(..., executor=)`."""

    @property
    def jobs(self) -> int:
        """Into how many pieces a call is cut, at most."""
        ...

    def run(
        self,
        call: Call,
        pieces: Sequence[Piece],
        keep: Callable[[Outcome], None],
        tell: Callable[[int, int], None],
    ) -> None:
        """Run all pieces: `keep` is given each outcome, once, and `tell` the number of a piece and its steps so far.

        What `keep` raises ends the run. After Ctrl-C, or a KeyboardInterrupt that `tell` raises, it hands over what
        there is, and raises KeyboardInterrupt.
        """
        ...


def cut(call: Call, jobs: int) -> list[Piece]:
    """The pieces of a call, of nearly equal numbers of units, which come one after the other."""
    n = len(call)
    jobs = min(jobs, n)
    return [Piece(k, range(n * k // jobs, n * (k + 1) // jobs)) for k in range(jobs)]


def count_steps(call: Call, piece: Piece) -> int | None:
    """How many steps a piece takes at most; None where that is not known."""
    models = call.take(piece.units).models
    limits = [model.max_steps if isinstance(model, Bounded) else None for model in models]
    if None in limits or call.plan.algorithm == "exact":
        return None
    known = [limit for limit in limits if limit is not None]
    if call.plan.algorithm == "gibbs":
        return sum(known) * (call.plan.sweeps or SWEEPS)
    return max(known) if isinstance(models[0], Joins) else sum(known)


def run_piece(call: Call, piece: Piece, observer: Observer) -> Outcome:
    """Run a piece here; `observer` sees every step, and ends it by returning True. What it raises is in the outcome."""
    results, deaths, complete, interrupted = list[Result](), list[str | None](), True, False
    spending = Spending(call.budget)
    control = Control([observer], spending)
    try:
        for job in _start(call, piece.units):
            try:
                complete = drive(job, control)
            except KeyboardInterrupt:
                complete, interrupted = False, True
            except FeynkacError as error:
                results += _collect_begun(job, error)
                raise
            results += job.collect(True) if complete else _collect_begun(job)
            deaths += job.explain_deaths() if job.has_particles else []
            if not complete:
                break
    except FeynkacError as error:
        return Outcome(piece, results, error=error, cause=error.__cause__, steps=spending.calls)
    return Outcome(piece, results, deaths, complete, interrupted, steps=spending.calls, spent=spending.why)


def _start(call: Call, units: range) -> Iterator[Job]:
    """The jobs of some units: one, where they can run in a batch or take turns, or else one for each."""
    algorithm, first = call.plan.algorithm, call.problems.models[units[0] // call.islands]
    plan = call.plan if algorithm == "exact" else call.plan.of_island()
    together = len(units) == 1 or algorithm in IN_TURNS or isinstance(first, Joins)
    parts = [units] if together else [range(unit, unit + 1) for unit in units]
    for part in parts:
        # Chains are numbered by a path of their own, groups of one run as groups.
        streams = Streams(call.seed, group=0 if algorithm == "gibbs" else part[0])
        yield start(call.take(part), plan, streams, first=part[0])


def _collect_begun(job: Job, error: FeynkacError | None = None) -> list[Any]:
    """The results of those problems of an unfinished job that have particles: its first ones."""
    if error is not None and error.partial is not None and not job.has_particles:  # the job says itself what there is
        return error.partial if isinstance(error.partial, list) else [error.partial]
    if not job.has_begun:
        return []
    try:
        return job.collect(False)
    except FeynkacError as unfinished:
        return unfinished.partial or []
    except Exception:
        if error is None:
            raise
        return []  # what failed may be what shows the particles, too
