"""Particle Gibbs behind `steer`: chains of conditional SMC runs, pooled into one Result.

Andrieu, Doucet, Holenstein 2010. Each problem has one chain for each island. Its first sweep is plain SMC, each later
one conditional SMC about the path that the sweep before drew from its weights; `smc.conditional` has the kernel.

A sweep that starts from the target leaves E[sum_i W_i f(x_i)] = E_target[f] for its whole population, since the next
path is drawn from these very weights: all particles are kept rather than one path a sweep, which only takes noise away.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.base.capabilities import Replays
from feynkac.base.clock import Stopwatch
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.results.doubts import list_doubts
from feynkac.results.result import Result
from feynkac.smc.engine import RandomSource
from feynkac.smc.observers import Observer, close_after
from feynkac.steering.algorithms import SWEEPS, Plan
from feynkac.steering.chains import Chain, diagnose_first, estimate_evidence, join_histories, pool, pool_last
from feynkac.steering.checkpoints.sweeping import SweepSaver
from feynkac.steering.deaths import explain_death
from feynkac.steering.jobs import Control, Glimpse
from feynkac.steering.problems import Problems
from feynkac.steering.recorder import read_watch, write_notes
from feynkac.steering.timing import TimedModel
from feynkac.steering.trail import join_arrays, join_known

if TYPE_CHECKING:
    from feynkac.steering.checkpoints.saving import Saver


class Chains:
    """All chains of a call of `steer`, a sweep of each in turn."""

    def __init__(
        self,
        problems: Problems,
        plan: Plan,
        streams: RandomSource,
        seed: int,
        *,
        first: int = 0,
        saver: Saver | None = None,
    ) -> None:
        """`first`: the number of its first chain among those of the call, by which its random numbers are keyed.

        `saver`: what saves it between two sweeps, and may have sweeps to go on from.
        """
        self._problems, self._plan, self._streams, self._first = problems, plan, streams, first
        self._saver = None if saver is None else SweepSaver(saver)
        self._seed, self._watch = seed, Stopwatch()
        for model in problems.models:
            if not isinstance(model, Replays):
                raise ArgumentError(
                    f"{type(model).__name__} cannot run under gibbs, which walks a path again: give it the methods "
                    "replay(t, state, rng, reference) and trace(state, row) of feynkac.base.capabilities.Replays, as "
                    "prompts, programs and samplers have them, or take another algorithm"
                )
        plan.resample()  # refused now rather than in the first sweep
        self._chains: list[list[Chain]] = [[] for _ in problems.models]

    @property
    def has_begun(self) -> bool:
        """Whether some problem has particles."""
        return any(chains and chains[0].recorder.step is not None for chains in self._chains)

    @property
    def has_particles(self) -> bool:
        """Whether every problem has particles to hand over."""
        return all(chains and chains[0].recorder.step is not None for chains in self._chains)

    @property
    def is_complete(self) -> bool:
        """Whether all chains have made all their sweeps, or have died."""
        return all(chains and all(chain.over for chain in chains) for chains in self._chains)

    def advance(self, control: Control) -> Iterator[None]:
        """Go on by a sweep of every chain at a time. What ends one chain ends all.

        Where a budget is used up, problems that have not begun take one step, so that each has particles.
        """
        sweeps = self._plan.sweeps or SWEEPS
        bar = control.make_bar(len(self._problems) * self._plan.islands * sweeps, "sweep")
        watching = [*control.observers, control.spending, bar]
        with close_after(*watching):
            try:
                saver = self._saver
                self._chains = [self._start(g, watching) for g in range(len(self._problems))]
                for k in range(0 if saver is None else saver.begun, sweeps):
                    for chain in itertools.chain(*self._chains):
                        if not chain.dead:
                            chain.sweep()
                        if chain.stopped and (self.has_particles or control.spending.why is None):
                            return
                    if saver is not None:
                        saver(k, self._chains, last=k == sweeps - 1)
                    yield
            finally:
                for chain in itertools.chain(*self._chains):
                    chain.close()

    def look(self, g: int) -> Glimpse | None:
        """The populations of the sweeps made last, each chain with the same share; None before there are any."""
        chains = self._chains[g]
        if not chains or not all(chain.kept for chain in chains):
            return None
        weighted = pool_last(chains, estimate_evidence(chains)[0])
        samples = [sample for kept, _ in weighted for sample in kept.samples]
        log_weight = np.concatenate([log_weight for _, log_weight in weighted])
        history = weighted[0][0].history
        return Glimpse(len(history.ess) - 1, lambda: samples, log_weight, max(len(chain.kept) for chain in chains) - 1)

    def collect(self, complete: bool) -> list[Result]:
        """What there is, one Result for each problem. Raises ModelError, with the others, if some have none yet."""
        begun = [chains for chains in self._chains if chains and chains[0].recorder.step is not None]
        found = [self._make_result(g, chains, complete) for g, chains in enumerate(begun)]
        if len(found) < len(self._chains):
            error = ModelError(
                f"the run was stopped when {len(found)} of {len(self._chains)} problems had begun; their results are "
                "in the error's `partial`"
            )
            error.partial = found or None
            raise error
        return found

    def explain_deaths(self) -> list[str | None]:
        """For each problem why all its chains died, None where one lives."""
        found = [min(chains, key=lambda chain: chain.dead).recorder for chains in self._chains]
        return [
            explain_death(each, self._problems.find_potential(g)) if each.died else None for g, each in enumerate(found)
        ]

    def _start(self, g: int, observers: Sequence[Observer]) -> list[Chain]:
        alone = self._problems.take(g)
        joined, islands = alone.join(), self._plan.islands
        if self._saver is not None:
            joined = self._saver.follow(joined)
        given = TimedModel(joined, self._watch), alone.weigh(), self._plan
        options: Any = {"observers": observers, "watch": self._watch, "places": alone.places}
        chains = []
        for b in range(islands):
            begin: dict[str, Any] = {} if self._saver is None else {"begin": self._saver.find(g, b)}
            chains.append(Chain(*given, self._streams.child(self._first + g * islands + b), **options, **begin))
        return chains

    def _make_result(self, g: int, chains: list[Chain], complete: bool) -> Result:
        finished = [kept for chain in chains for kept in chain.kept]
        if not finished:
            first = chains[0].recorder
            return first.make_result(self._watch, self._seed, complete=False, warnings=[], algorithm="gibbs")
        log_z, error = estimate_evidence(chains)
        weighted = pool(chains, log_z)
        counts = [kept.forwarded for kept in finished]
        return Result(
            samples=[sample for kept, _ in weighted for sample in kept.samples],
            log_weights=np.concatenate([log_weight for _, log_weight in weighted]),
            token_log_probs=join_known([kept.token_log_probs for kept, _ in weighted]),
            log_probs=join_arrays([kept.log_probs for kept, _ in weighted]),
            log_evidence=log_z,
            log_evidence_se=None if math.isnan(error) else error,
            diagnostics=diagnose_first(chains),
            history=join_histories([kept.history for kept in finished]),
            timing=read_watch(self._watch),
            dropped=max([kept.dropped for kept in finished if kept.dropped is not None], default=None),
            forwarded_tokens=None if None in counts else sum(filter(None, counts)),
            seed=self._seed,
            warnings=self._list_warnings(g, chains, complete),
            complete=complete,
            algorithm="gibbs",
            prompt=chains[0].recorder.find_prompt(),
        )

    def _list_warnings(self, g: int, chains: list[Chain], complete: bool) -> list[str]:
        found, dead = [], sum(chain.dead for chain in chains)
        if dead == len(chains):
            found.append(explain_death(chains[0].recorder, self._problems.find_potential(g)))
        elif dead:
            found.append(f"{dead} of {len(chains)} chains died in their first sweep, and have no part in the posterior")
        if not complete:
            done = max(len(chain.kept) for chain in chains)
            found.append(
                f"stopped after sweep {done} of {self._plan.sweeps or SWEEPS}: the samples are those of the sweeps "
                "that had ended"
            )
        if dead < len(chains) and (first := next((chain.kept[0] for chain in chains if chain.kept), None)):
            ess, resampled, n = first.history.ess, first.history.resampled, len(first.log_weight)
            texts = bool(first.history.pieces)
            found += list_doubts(diagnose_first(chains), ess, resampled, n, of_posterior=False, of_texts=texts)
        found += write_notes(sum((kept.notes for chain in chains for kept in chain.kept), Counter[str]()))
        later = [kept for chain in chains for kept in chain.kept[1:]]
        moved = sum(kept.moved for kept in later)
        if 2 * moved < len(later):
            found.append(f"the path moved in {moved} of {len(later)} sweeps; use more particles, or more sweeps")
        return found
