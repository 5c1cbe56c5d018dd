"""Conditional SMC and particle Gibbs: improve a path that is there already, and bound the evidence from above.

Andrieu, Doucet, Holenstein 2010, section 4.3. Ancestors are iid multinomial and drawn at every step: overwriting slot 0
of a sorted, stratified or systematic draw does not leave the target invariant.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from feynkac.base.capabilities import Records, Replayable
from feynkac.base.contract import LogW, Mask, Potential, Resample, Rng, Rows, State
from feynkac.base.errors import AllParticlesDied, ArgumentError
from feynkac.smc.checks import call, name_of
from feynkac.smc.engine import RandomSource, Step, smc
from feynkac.smc.observers import Observer, show
from feynkac.smc.schemes import iid_rows
from feynkac.smc.weights import log_sum_exp, rescale


def csmc(model: Replayable, potential: Potential, reference: Any, *, n: int, rng: RandomSource) -> Iterator[Step]:
    """Run SMC with `reference` pinned in row 0, and yield the weighted population of every step.

    For a reference from the target pi, a path drawn by `select` is again from pi, for every `n` >= 2; and
    E_pi[exp(-log_z)] = P(plain SMC does not go extinct) / Z. Raises ArgumentError when the reference has weight zero.
    """
    if n < 2:
        raise ArgumentError(f"conditional SMC with {n} particles cannot move; give at least 2")
    pinned = _PinnedModel(model, reference)
    for step in smc(pinned, potential, n=n, resample=_conditional_multinomial, rng=rng):
        if step.log_weight[0] == -np.inf:
            raise ArgumentError(
                f"the reference path has weight zero at step {step.t}; a reference must have mass under the target, "
                "and model and potentials must weigh a path the same each time (no clock, no numbers of their own)"
            )
        yield step


def select(step: Step, rng: RandomSource) -> int:
    """A row drawn from the weights of one group's population, with the stream "output".

    Raises AllParticlesDied when no row has mass.
    """
    if step.log_z == -math.inf:
        raise AllParticlesDied(
            f"all {len(step.log_weight)} particles have died by step {step.t}; there is none to select"
        )
    return int(rng.at("output", step.t).categorical(step.log_weight[None, :])[0])


class Sweep(NamedTuple):
    """One state of the particle Gibbs chain."""

    path: Any
    """`model.trace` of the row selected: the reference of the next sweep."""
    row: int
    step: Step
    """The last population of the sweep."""


def gibbs(
    model: Replayable,
    potential: Potential,
    *,
    n: int,
    sweeps: int,
    rng: RandomSource,
    resample: Resample,
    reference: Any = None,
    first: int = 0,
    observers: Sequence[Observer] = (),
) -> Generator[Sweep, None, None]:
    """Particle Gibbs: a Markov chain of paths, each sweep one conditional SMC run about the path before.

    The target is invariant for every `n` >= 2. Without a `reference` the chain starts from a path that plain SMC
    (with `resample`) selects, as the first sweep. Sweep k takes its numbers from `rng.child(k)`, so that a chain that
    was stopped goes on as it would have: `first` is the sweep to begin with, `reference` the path of the one before.
    `observers` see every step of every sweep; one that returns True ends the chain there, without a sweep that it cuts
    short.
    """
    for sweep in range(first, sweeps):
        source = rng.child(sweep)
        if reference is None:
            steps = smc(_TracedModel(model), potential, n=n, resample=resample, rng=source)
        else:
            steps = csmc(model, potential, reference, n=n, rng=source)
        last, stopped = _watch(steps, observers)
        if stopped and not last.ended:
            return
        row = select(last, source)
        reference = call(model.trace, last.state, row, of=model, what="trace")
        yield Sweep(reference, row, last)
        if stopped:
            return


def _watch(steps: Iterator[Step], observers: Sequence[Observer]) -> tuple[Step, bool]:
    """The last step, and whether an observer made it the last."""
    step, stopped = next(steps), False
    while True:
        stopped = show(step, *observers)
        following = None if stopped else next(steps, None)
        if following is None:
            return step, stopped
        step = following


def sandwich(
    model: Replayable, potential: Potential, exact: Any, *, n: int, resample: Resample, rng: RandomSource
) -> tuple[float, float]:
    """A lower and an upper bound of log Z, in nats, each in expectation.

    The lower is one run of SMC (Jensen). The upper is one of conditional SMC about `exact`, which must be a path from
    the target itself: E[log_z] >= -log E[exp(-log_z)] >= log Z (Grosse, Ghahramani, Adams 2015; Zhao et al. 2024).
    """
    *_, lower = smc(model, potential, n=n, resample=resample, rng=rng.child(0))
    *_, upper = csmc(model, potential, exact, n=n, rng=rng.child(1))
    return lower.log_z, upper.log_z


class _TracedModel:
    """A model whose particles keep their paths."""

    def __init__(self, model: Replayable) -> None:
        self._model = model
        self.name = name_of(model)

    def init(self, n: int, rng: Rng) -> State:
        state = self._model.init(n, rng)
        if isinstance(state, Records):
            state.record()
        return state

    def step(self, t: int, state: State, rng: Rng) -> tuple[State, LogW]:
        return self._model.step(t, state, rng)

    def done(self, state: State) -> Mask:
        return self._model.done(state)


class _PinnedModel(_TracedModel):
    """A model whose row 0 retraces the reference."""

    def __init__(self, model: Replayable, reference: Any) -> None:
        super().__init__(model)
        self._reference = reference

    def step(self, t: int, state: State, rng: Rng) -> tuple[State, LogW]:
        return self._model.replay(t, state, rng, self._reference)


def _conditional_multinomial(log_weight: LogW, rng: Rng) -> tuple[Rows, LogW]:
    """Row 0 stays; the others are iid from the weights, in no order that tells which row is the reference."""
    n = len(log_weight)
    weight, _ = rescale(log_weight)
    rows = np.concatenate([[0], iid_rows(weight, rng.uniform(n - 1))])
    return rows, np.full(n, log_sum_exp(log_weight) - math.log(n))
