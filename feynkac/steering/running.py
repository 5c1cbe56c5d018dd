"""A call of `steer` on its way: from its arguments to its results, step by step."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import replace
from threading import Event
from typing import Any, Literal

from feynkac.base.capabilities import Biased, find_reader
from feynkac.base.contract import Resample
from feynkac.base.errors import ArgumentError, FeynkacError, ModelLost, quote
from feynkac.base.host import check_not_forked
from feynkac.base.numbers import read_flag
from feynkac.base.words import is_word
from feynkac.results.result import Result
from feynkac.smc.budgets import Budget, Spending
from feynkac.smc.observers import Observer, read_observers
from feynkac.smc.rng import Streams
from feynkac.steering.algorithms import Algorithm, Plan
from feynkac.steering.checkpoints.saved import Saved
from feynkac.steering.checkpoints.saving import Checkpoint, begin_saving
from feynkac.steering.deaths import raise_if_dead
from feynkac.steering.exclusions import refuse_contradiction
from feynkac.steering.executors.divided import Divided
from feynkac.steering.executors.pieces import Executor
from feynkac.steering.jobs import Control, Glimpse
from feynkac.steering.logs import log_end, log_resampling, log_start
from feynkac.steering.moves import read_moves
from feynkac.steering.problems import read_problems
from feynkac.steering.starting import start

BIASED = (
    "biased: the proposal leaves its weights out, so that samples, weights and evidence follow no declared target, "
    "however many the particles"
)
logger = logging.getLogger(__name__)


class Run:
    """A call of `steer`, which `advance` takes on. Raises ArgumentError for bad arguments."""

    def __init__(
        self,
        model: Any,
        potentials: tuple[Any, ...],
        *,
        particles: int = 16,
        algorithm: Algorithm = "smc",
        resampler: str | Resample = "ssp",
        ess_threshold: float = 0.5,
        islands: int = 1,
        sweeps: int | None = None,
        moves: Any = None,
        seed: int | None = None,
        progress: bool | None = None,
        on_death: Literal["raise", "return"] = "raise",
        observers: Iterable[Observer] = (),
        executor: Executor | None = None,
        budget: Budget | None = None,
        checkpoint: str | os.PathLike[str] | Checkpoint | Saved | None = None,
        halt: Event | None = None,
    ) -> None:
        """`halt`: another thread sets it to end the run after its next step."""
        check_not_forked()
        self.many = isinstance(model, list | tuple)
        spending = Spending(read_budget(budget), halt=halt)  # whose time counts from here on
        self.plan = Plan(algorithm, particles, islands, resampler, ess_threshold, sweeps, read_moves(moves))
        if not is_word(on_death, ("raise", "return")):
            raise ArgumentError(f"on_death is {quote(on_death)}; it must be 'raise' or 'return'")
        watching = read_observers(observers)
        progress = None if progress is None else read_flag("progress", progress)
        self._raises, self._problems, streams = on_death == "raise", read_problems(model, potentials), Streams(seed)
        self.plan.check_models(self._problems.models)
        if self._raises:
            refuse_contradiction([self._problems.find_potential(g) for g in range(len(self._problems))])
        saver = None
        if checkpoint is not None:
            saver = begin_saving(checkpoint, self._problems, self.plan, streams.seed, executor)
        if executor is None:
            self._job = start(self._problems, self.plan, streams, saver=saver)
        else:
            self._job = Divided(self._problems, self.plan, streams.seed, executor, spending.budget)
        self.seed, self.divided = streams.seed, executor is not None
        self._control = Control([*watching], spending, progress)
        self._notices: list[str] = []
        self.outcome: list[Result] | None = None
        """The results, once the run is over."""

    def __len__(self) -> int:
        """The number of problems."""
        return len(self._problems)

    def advance(self) -> Generator[Any, None, None]:
        """Take the run on to its end, with a pause after each part that can be looked at.

        Raises what `steer` raises, at the moment when it arises.
        """
        log_start(self.plan, len(self), self.seed)
        control = self._control
        if logger.isEnabledFor(logging.DEBUG) and not self.divided:
            control.observers = [*control.observers, log_resampling]
        try:
            yield from self._job.advance(control)
            complete = self._job.is_complete
        except (KeyboardInterrupt, ModelLost) as stopped:
            logger.info("run ended by %s", type(stopped).__name__)
            if not self._job.has_begun:
                raise
            complete = False
            self._notices = [str(stopped)] if isinstance(stopped, ModelLost) else []
        except FeynkacError as error:
            logger.info("run ended by %s", type(error).__name__)
            self._hand_over(error)
            raise
        self._finish(complete)

    def finish(self) -> Any:
        """What `steer` returns: all results of a list of problems, or the one there is."""
        assert self.outcome is not None
        return self.outcome if self.many else self.outcome[0]

    def look(self, g: int) -> Glimpse | None:
        """The particles of a problem now; None before it has any."""
        return self._job.look(g)

    def find_results(self) -> list[Result]:
        """The results so far, whole ones where the run has come to its end."""
        return self.list_results(self._job.is_complete)

    def list_results(self, complete: bool) -> list[Result]:
        """The results so far, of a run that is `complete`, or is to be told as stopped here."""
        problems, notices = self._problems, self._notices
        readers = [find_reader(problems.find_potential(g)) for g in range(len(problems))]
        read = [replace(each, reader=reader) for each, reader in zip(self._job.collect(complete), readers, strict=True)]
        warned = [_warn(result, model) for result, model in zip(read, problems.models, strict=True)]
        return [replace(each, warnings=[*notices, *each.warnings]) for each in warned] if notices else warned

    def _finish(self, complete: bool) -> None:
        if not complete and self._control.spending.why is not None:
            self._notices = [*self._notices, self._control.spending.why]
        results = self.list_results(complete)
        log_end(results)
        if self._raises and complete:
            raise_if_dead(self._job.explain_deaths(), results)
        self.outcome = results

    def _hand_over(self, error: FeynkacError) -> None:
        """Let an error carry the particles there are."""
        if self._job.has_particles:
            with suppress(Exception):  # what failed may be what shows the particles, too
                partial = self.list_results(False)
                error.partial = partial if self.many else partial[0]


def read_budget(budget: Any) -> Budget | None:
    """The budget of a run. Raises ArgumentError for what is none."""
    if budget is None or isinstance(budget, Budget):
        return budget
    raise ArgumentError(
        f"budget is {quote(budget)}; give fk.Budget(seconds=, tokens=, calls=) with one of them or more"
    )


def _warn(result: Result, model: Any) -> Result:
    """`result`, which says so where the model's proposal leaves its weights out."""
    if not (isinstance(model, Biased) and model.biased):
        return result
    return replace(result, biased=True, warnings=[BIASED, *result.warnings])
