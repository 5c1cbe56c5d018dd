"""One chain of particle Gibbs, and what the chains of a problem say together."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np

from feynkac.base.clock import Stopwatch
from feynkac.base.contract import LogW
from feynkac.base.errors import AllParticlesDied
from feynkac.results.history import History
from feynkac.smc.conditional import gibbs
from feynkac.smc.diagnostics import Diagnostics, Spread, diagnose
from feynkac.smc.engine import RandomSource, Step
from feynkac.smc.evidence import evidence
from feynkac.smc.observers import Observer, show
from feynkac.smc.weights import log_sum_exp
from feynkac.steering.algorithms import SWEEPS, Plan
from feynkac.steering.recorder import Recorder, count_forwarded, count_notes, find_dropped, show_samples
from feynkac.steering.timing import TimedPotential
from feynkac.steering.trail import tell_log_probs, tell_tokens
from feynkac.steering.verdicts import Verdicts, watch_deaths


class Kept(NamedTuple):
    """What is kept of a sweep: its population, without the model's state."""

    samples: list[Any]
    log_weight: LogW
    history: History
    forwarded: int | None
    moved: bool
    """Whether the next path is another particle than the reference."""
    spread: Spread
    """What the sweep lost by resampling."""
    notes: Counter[str]
    """What potentials have noted, and how often."""
    dropped: float | None
    """Nats that an approximate model dropped of its samples."""
    token_log_probs: list[list[tuple[str, float]]] | None
    log_probs: LogW | None
    """(n,)"""


class Chain:
    """One chain as far as it has come."""

    def __init__(
        self,
        model: Any,
        potential: Any,
        plan: Plan,
        source: RandomSource,
        observers: Sequence[Observer],
        watch: Stopwatch,
        places: Sequence[int] | None = None,
        begin: Callable[[Chain], Any] = lambda chain: None,
    ) -> None:
        """`places`: that of the problem in the call. `begin` takes up what was saved of it, and gives the last path."""
        self.kept: list[Kept] = []
        self.path: Any = None
        """The path that was drawn last."""
        self._verdicts = Verdicts()
        self.recorder = Recorder(0, 1, self._verdicts)
        self.path = begin(self)
        self.stopped = False
        """Whether an observer has ended it."""
        self._sweeps_in_all, self._observers = plan.sweeps or SWEEPS, observers
        self._sweeps = gibbs(
            model,
            TimedPotential(watch_deaths(potential, self._verdicts), watch, places),
            n=plan.particles // plan.islands,
            sweeps=plan.sweeps or SWEEPS,
            rng=source,
            resample=plan.resample(),
            reference=self.path,
            first=len(self.kept),
            observers=[self._see],
        )

    @property
    def dead(self) -> bool:
        """Whether the first sweep left no particle; a later one always has its reference."""
        return self.recorder.died

    @property
    def over(self) -> bool:
        """Whether it has come to its end."""
        return self.dead or len(self.kept) == self._sweeps_in_all

    def sweep(self) -> None:
        """Go on by one sweep, which is not kept if an observer stopped it before its end."""
        try:
            self.path, row, _ = next(self._sweeps)
        except StopIteration:
            return
        except AllParticlesDied:
            if not self.dead:  # then it was another run, inside of a potential or a program
                raise
            row = 0
        step, whole = self.recorder.step, self.recorder.whole
        assert step is not None and whole is not None
        population = show_samples(whole.state, self.recorder.members)
        history, forwarded = self.recorder.make_history(), count_forwarded(whole.state, 0)
        notes = count_notes(whole.state, self.recorder.members)
        dropped, spread = find_dropped(whole.state, self.recorder.members, step.log_weight), self.recorder.spread
        told = tell_tokens(whole.state, self.recorder.members), tell_log_probs(whole.state, self.recorder.members)
        self.kept.append(Kept(population, step.log_weight, history, forwarded, row != 0, spread, notes, dropped, *told))

    def close(self) -> None:
        """Let go of the run that is on its way, which holds this chain as it is held by it."""
        self._sweeps.close()

    def _see(self, step: Step) -> bool:
        recorder = self.recorder if step.t else Recorder(0, 1, self._verdicts)
        recorder(step)
        self.recorder = recorder  # of a sweep whose first step is known: what was before stays where that fails
        self.stopped = show(step, *self._observers)
        return self.stopped


def estimate_evidence(chains: Sequence[Chain]) -> tuple[float, float]:
    """log Z and its standard error from the first sweeps: conditional SMC overestimates it (`conditional.sandwich`)."""
    first = [chain.kept[0] for chain in chains if chain.kept]
    resampled = any(kept.history.resampled for kept in first)
    return evidence(
        np.concatenate([kept.log_weight for kept in first]) - math.log(len(first)), len(first), resampled=resampled
    )


def diagnose_first(chains: Sequence[Chain]) -> Diagnostics:
    """What the first sweeps say of the evidence, which is theirs alone; a chain that died counts."""
    first = [chain.kept[0] for chain in chains if chain.kept]
    resampled = any(kept.history.resampled for kept in first)
    lost = np.concatenate([kept.spread.lost for kept in first])
    ancestors = sum(kept.history.unique_ancestors[-1] for kept in first)
    return diagnose([kept.log_weight for kept in first], lost, ancestors, resampled=resampled)


def pool(chains: Sequence[Chain], log_z: float) -> list[tuple[Kept, LogW]]:
    """The sweeps that count, with log-weights whose log-sum-exp is `log_z`: each sweep has the same part in it.

    The first sweep of a chain is its burn-in. Where there is nothing else it counts as the plain SMC run that it is.
    """
    later = [kept for chain in chains for kept in chain.kept[1:]]
    if later:
        share = log_z - math.log(len(later))
        return [(kept, kept.log_weight - log_sum_exp(kept.log_weight) + share) for kept in later]
    first = [chain.kept[0] for chain in chains if chain.kept]
    return [(kept, kept.log_weight - math.log(len(first))) for kept in first]


def pool_last(chains: Sequence[Chain], log_z: float) -> list[tuple[Kept, LogW]]:
    """The last sweep of each chain that lives, weighted as `pool` weighs all of them."""
    alive = [chain.kept[-1] for chain in chains if not chain.dead]
    if not alive or max(len(chain.kept) for chain in chains) == 1:
        return pool(chains, log_z)
    share = log_z - math.log(len(alive))
    return [(kept, kept.log_weight - log_sum_exp(kept.log_weight) + share) for kept in alive]


def join_histories(histories: Sequence[History]) -> History:
    """One history of all sweeps, one after the other."""
    starts = list(itertools.accumulate((len(history.ess) for history in histories[:-1]), initial=0))
    parts = {f.name: [getattr(history, f.name) for history in histories] for f in fields(History)}
    parts["resampled"] = [[t + start for t in h.resampled] for start, h in zip(starts, histories, strict=True)]
    parts["sweeps"] = [starts]
    return History(**{name: list(itertools.chain(*lists)) for name, lists in parts.items()})
