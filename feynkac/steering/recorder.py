"""What `steer` keeps of a run: the last population, the history, where the time went, and why particles died."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from feynkac.base.capabilities import Contradicts, CountsTokens, Shows, Tokenised, has, list_factors
from feynkac.base.clock import Stopwatch
from feynkac.base.contract import Rows
from feynkac.base.errors import AllParticlesDied, ModelError
from feynkac.base.masks import TokenConstraint, count_least
from feynkac.results.doubts import list_doubts
from feynkac.results.result import History, Result, Timing
from feynkac.smc.checks import call, name_of
from feynkac.smc.diagnostics import Spread
from feynkac.smc.engine import Step
from feynkac.smc.evidence import evidence
from feynkac.smc.history import Trace
from feynkac.steering.verdicts import Verdicts


def read_watch(watch: Stopwatch) -> Timing:
    """Where the time went so far."""
    return Timing(watch.total, watch.spent["model"], watch.spent["potentials"])


class Recorder:
    """Follows one group of a run and makes its Result."""

    def __init__(self, group: int, islands: int, verdicts: Verdicts | None = None) -> None:
        self.group, self.islands, self.verdicts = group, islands, verdicts or Verdicts()
        self.trace, self.rows, self.levels = Trace(), list[list[int]](), list[list[float]]()
        self.spread = Spread(islands)
        self.step: Step | None = None
        self.whole: Step | None = None

    def __call__(self, whole: Step) -> None:
        step = whole.group(self.group)
        if self.step is not None and self.step.ended:
            return
        self.trace(step)
        self.spread(step)
        self.rows.append(step.rows.tolist())
        self.levels.append(np.where(step.log_weight > -np.inf, step.level, -np.inf).round(6).tolist())
        self.step, self.whole = step, whole
        self.verdicts.settle(self.members.tolist(), step.resampled[0])

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

    def make_history(self) -> History:
        """How the run went so far."""
        trace = self.trace
        resampled = [t for t, resampled in zip(trace["t"], trace["resampled"], strict=True) if resampled]
        return History(trace["ess"], trace["log_z"], trace["roots"], resampled, self.rows, self.levels)

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
        return Result(
            samples=shown,
            log_weights=self.step.log_weight,
            log_evidence=log_z,
            log_evidence_se=None if math.isnan(error) else error,
            diagnostics=self.spread.diagnose(),
            history=history,
            timing=read_watch(watch),
            forwarded_tokens=count_forwarded(state, self.group),
            seed=seed,
            warnings=[*warnings, *self._list_doubts(complete, algorithm)],
            complete=complete,
            algorithm=algorithm,
        )

    def _list_doubts(self, complete: bool, algorithm: str) -> list[str]:
        assert self.step is not None
        n, doubts = len(self.step.log_weight), []
        if not complete:
            doubts.append(
                f"stopped after step {self.step.t}: the weights are for the target so far, guesses included, and "
                f"{int((~self.step.done).sum())} of {n} particles are unfinished"
            )
        if self.died:
            return doubts
        history, never = self.make_history(), algorithm in ("importance", "best_of_n")
        found = self.spread.diagnose()
        return [*doubts, *list_doubts(found, history.ess, history.resampled, n, never_resamples=never)]


def show_samples(state: Any, rows: Rows) -> list[Any]:
    """What a result holds for `rows`: what the state shows of them, or else the state of each row alone."""
    if isinstance(state, Shows):
        return list(call(state.samples, rows, of=state, what="samples"))
    return [call(state.fork, rows[[i]], of=state, what="fork") for i in range(len(rows))]


def count_forwarded(state: Any, group: int) -> int | None:
    """Tokens that went through the model for a group; None where the state does not count them."""
    counts = state.forwarded if isinstance(state, CountsTokens) else None
    return None if counts is None else int(counts[group])


def explain_death(recorder: Recorder, potential: Any) -> str:
    """Why every particle of a group died, as far as the last population tells, and what to do."""
    step, whole = recorder.step, recorder.whole
    assert step is not None and whole is not None
    rows, state = recorder.members, whole.state
    culprits = recorder.verdicts.describe(step, state, rows)
    blamed = "; ".join(culprits) if culprits else "no token was left that every constraint allows"
    if contradiction := find_contradiction(potential):
        return f"all {len(rows)} particles had died by step {step.t}: {contradiction}"
    advice = "Use more particles, raise max_tokens, or make the constraint or the reward less severe."
    last = show_samples(state, rows)
    blamed = "; ".join([blamed, *_tell_least(state, rows, potential)])
    if len(getattr(last[0], "shape", ())) > 1:  # an array says nothing as text
        blamed = "; ".join(culprits) if culprits else "a guess of -inf promised each that it could not have weight"
        advice = "Use more particles, or make the constraint or the reward less severe."
        return f"all {len(rows)} particles had died by step {step.t}: {blamed}. {advice}"
    shown = ", ".join(map(repr, last[:3])) + (f" and {len(last) - 3} more" if len(last) > 3 else "")
    return f"all {len(rows)} particles had died by step {step.t}: {blamed}. Their last states: {shown}. {advice}"


def find_contradiction(potential: Any) -> str | None:
    """Which constraints no text meets at once, where they can tell."""
    factors = [factor for factor in list_factors(potential) if has(factor, Contradicts)]
    groups = [*itertools.combinations(factors, 2), *([tuple(factors)] if len(factors) > 2 else [])]
    for first, *others in groups:
        if first.shares_text(others) is False:
            named = " and ".join(repr(name_of(each)) for each in (first, *others))
            which = "both" if len(others) == 1 else "all of"
            return f"no text at all meets {which} {named}; loosen one of them (a blank at the start, perhaps?)"
    return None


def _tell_least(state: Any, rows: Rows, potential: Any) -> list[str]:
    """How many tokens the constraints take at least, where nothing could be written at all."""
    if not isinstance(state, Tokenised) or any(map(len, state.tokens(rows))):
        return []
    masking = [factor for factor in list_factors(potential) if isinstance(factor, TokenConstraint)]
    least = {name_of(factor): count_least(factor.automaton(state.vocabulary)) for factor in masking}
    return [f"'{name}' takes {n} tokens at least" for name, n in least.items() if n > 1]


def raise_if_dead(recorders: list[Recorder], potential: Any, results: list[Result]) -> None:
    """Raise AllParticlesDied for the first group without a survivor; the error carries all results."""
    for recorder, result in zip(recorders, results, strict=True):
        if recorder.died:
            error = AllParticlesDied(explain_death(recorder, potential))
            error.partial = result if len(results) == 1 else results
            raise error
