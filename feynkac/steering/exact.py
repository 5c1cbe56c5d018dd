"""Exact answers behind `steer`: all samples that the constraints allow, where they are few enough to be listed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from feynkac.base.capabilities import Enumerated, Enumerates
from feynkac.base.clock import Stopwatch
from feynkac.base.contract import Potential
from feynkac.base.errors import ArgumentError, ModelError, PotentialError
from feynkac.results.history import History
from feynkac.results.result import Result
from feynkac.smc.budgets import Spending
from feynkac.smc.checks import call, check_log_weights, name_of
from feynkac.smc.observers import close_after
from feynkac.smc.progress import Progress
from feynkac.smc.weights import effective_sample_size, log_sum_exp
from feynkac.steering.exclusions import find_contradiction
from feynkac.steering.jobs import Control
from feynkac.steering.problems import Problems
from feynkac.steering.recorder import (
    count_forwarded,
    count_notes,
    find_dropped,
    find_prompt,
    read_watch,
    show_samples,
    warn_of_dropped,
    write_notes,
)
from feynkac.steering.timing import number_problems
from feynkac.steering.trail import tell_log_probs, tell_tokens

MOST = 5_000
"""Histories that go through the model for one problem, at most."""
TINY = -18.0
"""Nats, beside those of what was found, up to which what was left out does not matter: 1.5e-8 of it."""
WEIGHTLESS = "no text of the model that ends within max_tokens has weight; raise max_tokens, or loosen the constraints"


class Exact:
    """All problems of a call of `steer`, one after the other."""

    def __init__(self, problems: Problems) -> None:
        for model in problems.models:
            if not isinstance(model, Enumerates):
                raise ArgumentError(
                    f"{type(model).__name__} cannot list its samples, as prompts of language models can; take another "
                    "algorithm than 'exact'"
                )
        self._watch, self._problems = Stopwatch(), problems
        self._models = [problems.take(g).join() for g in range(len(problems))]
        self._results: list[Result] = []

    @property
    def has_particles(self) -> bool:
        """Whether every problem is solved."""
        return len(self._results) == len(self._models)

    @property
    def has_begun(self) -> bool:
        """Whether some problem is solved."""
        return bool(self._results)

    @property
    def is_complete(self) -> bool:
        """Whether every problem is solved, and none was cut short."""
        return self.has_particles and all(result.complete for result in self._results)

    def advance(self, control: Control) -> Iterator[None]:
        """Solve one problem after the other; observers see none, and are closed.

        Raises ArgumentError for one too large.
        """
        bar = control.make_bar(None, "history")
        with close_after(*control.observers, bar):
            for model in self._models:
                self._results.append(self._solve(model, control.spending, bar))
                yield
                if control.spending.is_over():
                    return

    def look(self, g: int) -> None:
        """None: there is no population on its way."""

    def collect(self, complete: bool) -> list[Result]:
        """The exact results. Raises ModelError, with those there are, if some problems are not solved."""
        if not self.has_particles:
            error = ModelError(
                f"the run was stopped when {len(self._results)} of {len(self._models)} problems were solved; their "
                "results are in the error's `partial`"
            )
            error.partial = self._results or None
            raise error
        return self._results

    def explain_deaths(self) -> list[str | None]:
        """For each problem why no text has weight, None where one has."""
        return [
            find_contradiction(self._problems.find_potential(g)) or WEIGHTLESS
            if result.log_evidence == -math.inf
            else None
            for g, result in enumerate(self._results)
        ]

    def _solve(self, model: Any, spending: Spending, bar: Progress) -> Result:
        g = len(self._results)
        masked, places = self._problems.only_masks(g), self._problems.take(g).places or (g,)
        before = spending.tokens

        def watch(histories: int) -> bool:
            bar.add(histories)
            return spending.add(calls=1, tokens=histories)

        with self._watch.on("model"):
            found: Enumerated = call(model.enumerate, MOST, masked, watch, of=model, what="enumerate")
        number_problems(found.state, places)
        with self._watch.on("potentials"):
            result = self._weigh(found, self._problems.find_potential(g))
        if result.forwarded_tokens is not None:  # those of the prompt are known now
            spending.add(tokens=before + result.forwarded_tokens - spending.tokens)
        # Where only masks weigh, what was left out is known to be nothing against what was found.
        if found.log_left == -math.inf or (masked and found.log_left < result.log_evidence + TINY):
            return result
        left = f"{found.log_left:.2f} nats of prefixes were not listed: the evidence is a lower bound"
        some = replace(result, complete=False, log_evidence_se=None, lower_bound=result.log_evidence)
        if spending.is_over():
            return replace(some, warnings=[left, *some.warnings])
        raise self._make_refusal(places[0], found.log_left, some)

    def _make_refusal(self, place: int, log_left: float, some: Result) -> ArgumentError:
        error = ArgumentError(
            f"the texts of problem {place + 1} are too many to be listed: those found in {MOST} "
            f"histories have log evidence {some.log_evidence:.2f}, and prefixes of {log_left:.2f} nats "
            "are left; use algorithm='smc', tighter constraints, or a smaller max_tokens; those found are in the "
            "error's `partial`"
        )
        error.partial = some if len(self._models) == 1 else [*self._results, some]
        return error

    def _weigh(self, found: Enumerated, potential: Potential) -> Result:
        """The result of all samples found."""
        rows = np.arange(len(found.log_prob))
        values = call(potential.final, found.state, rows, of=potential, what="final", error=PotentialError)
        final = check_log_weights(values, source=name_of(potential), what="final", t=None, rows=rows)
        log_weight = found.log_prob + final
        log_z, n = log_sum_exp(log_weight), len(rows)
        history = History([effective_sample_size(log_weight)], [log_z], [n], [], [rows.tolist()], [log_weight.tolist()])
        dropped = find_dropped(found.state, rows, log_weight)
        return Result(
            samples=show_samples(found.state, rows),
            log_weights=log_weight,
            token_log_probs=tell_tokens(found.state, rows),
            log_probs=tell_log_probs(found.state, rows),
            log_evidence=log_z,
            log_evidence_se=0.0,
            history=history,
            timing=read_watch(self._watch),
            forwarded_tokens=count_forwarded(found.state, 0),
            warnings=[*write_notes(count_notes(found.state, rows)), *warn_of_dropped(dropped)],
            dropped=dropped,
            algorithm="exact",
            prompt=find_prompt(found.state, rows),
        )
