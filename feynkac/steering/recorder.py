"""What `steer` keeps of a run: the last population, the history, where the time went, and why particles died."""

from __future__ import annotations

import math
from collections import Counter
from copy import copy
from typing import Any

import numpy as np

from feynkac.base.capabilities import (
    BoundsEvidence,
    CountsTokens,
    Doubts,
    Remembers,
    Shows,
    TellsDropped,
    TellsProblems,
    has,
)
from feynkac.base.clock import Stopwatch
from feynkac.base.contract import LogW, Rows
from feynkac.base.errors import ModelError
from feynkac.results.course import doubt_course
from feynkac.results.doubts import list_doubts
from feynkac.results.history import History, Timing
from feynkac.results.result import Result
from feynkac.smc.checks import call
from feynkac.smc.diagnostics import Diagnostics, Spread
from feynkac.smc.engine import Step
from feynkac.smc.evidence import evidence
from feynkac.smc.history import Trace
from feynkac.smc.weights import normalise
from feynkac.steering.trail import Trail, tell_log_probs, tell_tokens
from feynkac.steering.verdicts import Verdicts

BELOW = 0.5
"""Nats by which an evidence may be below what it is for certain before a result warns of it."""

DROPPED = 0.5
"""Nats that the beam of a byte model may drop of a text before a result warns of it."""


def read_watch(watch: Stopwatch) -> Timing:
    """Where the time went so far."""
    return Timing(watch.total, watch.spent["model"], watch.spent["potentials"])


class Recorder:
    """Follows one group of a run and makes its Result."""

    def __init__(
        self,
        group: int,
        islands: int,
        verdicts: Verdicts | None = None,
        *,
        masked: bool = False,
        moves: bool = False,
    ) -> None:
        """`masked`: nothing weighs but constraints that mask; `moves`: moves may change what particles hold."""
        self.group, self.islands, self.verdicts, self.masked = group, islands, verdicts or Verdicts(), masked
        self.trace, self.trail = Trace(), Trail(moves)
        self.spread = Spread(islands)
        self.step: Step | None = None
        self.whole: Step | None = None

    def __call__(self, whole: Step) -> None:
        step = whole.group(self.group)
        if self.step is not None and self.step.ended:
            return
        before, spread, n = (self.step, self.whole), copy(self.spread), len(self.trace)
        try:
            self._record(step, whole)
        except BaseException:  # Ctrl-C, too: of each step all is known or nothing
            (self.step, self.whole), self.spread = before, spread
            for column in (self.trace.records, *self.trail.columns.values()):
                del column[n:]
            raise

    def _record(self, step: Step, whole: Step) -> None:
        self.trace(step)
        self.spread(step)
        self.step, self.whole = step, whole
        members = self.members
        self.trail(step, whole.state, members, self.verdicts.tell_new(members))
        self.verdicts.settle(members, step.resampled[0])

    @property
    def died(self) -> bool:
        """Whether every particle has weight zero."""
        return self.step is not None and self.step.log_z == -math.inf

    @property
    def members(self) -> Rows:
        """(N,) the rows of this group in the whole batch."""
        assert self.whole is not None
        part = self.whole.groups[self.group]
        return np.arange(part.start, part.stop)

    def find_floor(self) -> float | None:
        """What the log evidence is at least, whatever the run says; None where nothing is known."""
        assert self.whole is not None and self.step is not None
        state = self.whole.state
        if not self.masked or not has(state, BoundsEvidence):
            return None
        return state.bound_evidence(self.group, self.members[self.step.done & (self.step.log_weight > -np.inf)])

    def find_prompt(self) -> str | list[dict[str, Any]] | None:
        """What the samples continue, as far as the state tells."""
        return None if self.whole is None else find_prompt(self.whole.state, self.members)

    def make_history(self) -> History:
        """How the run went so far."""
        trace, state = self.trace, None if self.whole is None else self.whole.state
        resampled = [t for t, resampled in zip(trace["t"], trace["resampled"], strict=True) if resampled]
        return History.from_arrays(
            self.trail.copy_arrays(),
            ess=trace["ess"],
            log_evidence=trace["log_z"],
            unique_ancestors=trace["roots"],
            resampled=resampled,
            **self.trail.list_columns(state),
        )

    def make_result(
        self, watch: Stopwatch, seed: int | None, *, complete: bool, warnings: list[str], algorithm: str = "smc"
    ) -> Result:
        """The Result of the population seen last."""
        if self.step is None or self.whole is None:
            raise ModelError("the run was stopped before its first step, so that there are no particles")
        state, history = self.whole.state, self.make_history()
        log_z, error = evidence(self.step.log_weight, self.islands, resampled=bool(history.resampled))
        shown = show_samples(state, self.members)
        if all(sample is None for sample in shown):
            warnings = [*warnings, "every sample is None: a program gives what it returns"]
        notes = write_notes(count_notes(state, self.members))
        found, floor = self.spread.diagnose(), self.find_floor() if complete else None
        dropped = find_dropped(state, self.members, self.step.log_weight)
        return Result(
            samples=shown,
            log_weights=self.step.log_weight,
            log_evidence=log_z,
            log_evidence_se=None if math.isnan(error) else error,
            token_log_probs=tell_tokens(state, self.members),
            log_probs=tell_log_probs(state, self.members),
            diagnostics=found,
            lower_bound=floor,
            dropped=dropped,
            history=history,
            timing=read_watch(watch),
            forwarded_tokens=count_forwarded(state, self.group),
            seed=seed,
            warnings=[
                *warnings,
                *(note for note in notes if not any(note in said for said in warnings)),
                *self._list_doubts(complete, algorithm, history, found, floor, dropped),
            ],
            complete=complete,
            algorithm=algorithm,
            prompt=self.find_prompt(),
        )

    def _list_doubts(
        self,
        complete: bool,
        algorithm: str,
        history: History,
        found: Diagnostics,
        floor: float | None,
        dropped: float | None,
    ) -> list[str]:
        assert self.step is not None
        n, doubts = len(self.step.log_weight), []
        if not complete:
            doubts.append(
                f"stopped after step {self.step.t}: the weights are for the target so far, guesses included, and "
                f"{int((~self.step.done).sum())} of {n} particles are unfinished"
            )
        if self.died:
            return doubts
        doubts += warn_of_dropped(dropped)
        doubts += warn_of_floor(self.step.log_z, floor)
        never = algorithm in ("importance", "best_of_n")
        # What is certain may be as uneven as it likes: of such a population a small ESS is no doubt.
        uneven = algorithm == "optimal"
        state = self.whole.state if self.whole is not None else None
        return [
            *doubts,
            *(state.list_doubts(self.group) if has(state, Doubts) else ()),
            *list_doubts(
                found,
                history.ess,
                history.resampled,
                n,
                never_resamples=never,
                of_posterior=not uneven,
                of_texts=bool(history.pieces),
            ),
            *(doubt_course(history) if complete else ()),
        ]


def show_samples(state: Any, rows: Rows) -> list[Any]:
    """What a result holds for `rows`: what the state shows of them, or else the state of each row alone."""
    if isinstance(state, Shows):
        return list(call(state.samples, rows, of=state, what="samples"))
    return [call(state.fork, rows[[i]], of=state, what="fork") for i in range(len(rows))]


def find_prompt(state: Any, rows: Rows) -> str | list[dict[str, Any]] | None:
    """What the samples of `rows`, all of one problem, continue: a text or messages, None where that is not known."""
    if not has(state, TellsProblems) or not len(rows):
        return None
    problem = state.tell_problems(rows[:1])[0]
    return problem.prompt if problem.chat is None else [dict(each) for each in problem.chat]


def count_notes(state: Any, rows: Rows) -> Counter[str]:
    """What potentials have noted of `rows` in this run, and how often."""
    return state.memory.count_notes(rows) if has(state, Remembers) else Counter()


def write_notes(counts: Counter[str]) -> list[str]:
    """Notes as warnings."""
    return [f"{said} ({n} times)" if n > 1 else said for said, n in counts.items()]


def find_dropped(state: Any, rows: Rows, log_weight: LogW) -> float | None:
    """The posterior mean of what an approximate model dropped of `rows`, in nats; None where it is exact."""
    dropped = state.tell_dropped(rows) if has(state, TellsDropped) else None
    weight = normalise(log_weight)
    return None if dropped is None else float((weight[weight > 0] * dropped[weight > 0]).sum())


def warn_of_dropped(dropped: float | None) -> list[str]:
    """A warning where an approximate model dropped much, in nats a text."""
    if dropped is None or dropped <= DROPPED:
        return []
    return [
        f"the beam of the byte model dropped {dropped:.2f} nats a text, so that its law is that of the model beneath "
        "to this extent only; give fk.bytewise a wider beam, or a smaller least"
    ]


def warn_of_floor(log_z: float, floor: float | None) -> list[str]:
    """A warning where an evidence is below what it is for certain, both in nats."""
    if floor is None or log_z >= floor - BELOW:
        return []
    return [
        f"the evidence is below {floor:.2f} nats, which some texts of the constraint have for certain: the "
        "particles missed likely ones; use algorithm='exact' if the texts are few, or more particles"
    ]


def count_forwarded(state: Any, group: int) -> int | None:
    """Tokens that went through the model for a group; None where the state does not count them."""
    counts = state.forwarded if isinstance(state, CountsTokens) else None
    return None if counts is None else int(counts[group])
