"""The log evidence between two bounds: from below by SMC, from above by conditional SMC about a posterior sample."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from feynkac.base.arguments import suggest_names
from feynkac.base.capabilities import Replays, require
from feynkac.base.contract import LogW
from feynkac.base.errors import AllParticlesDied, ArgumentError
from feynkac.base.host import check_not_forked
from feynkac.base.numbers import read_count, read_particles
from feynkac.smc.conditional import gibbs, sandwich
from feynkac.smc.engine import RandomSource, Step
from feynkac.smc.resample import adaptive, ssp
from feynkac.smc.rng import Streams
from feynkac.smc.weights import log_sum_exp
from feynkac.steering.problems import read_problems


@dataclass(frozen=True)
class EvidenceBounds:
    """Two bounds of a log evidence, in nats, each in expectation over runs.

    E[`lower`] is at most the log evidence; runs that died out count. Without a sample there are no bounds where all of
    them did, so that of a target that SMC seldom meets the calls that return are too high. E[`upper`] is at least the
    log evidence if `exact`; else it is so only as far as the samples that the upper runs are about come from the
    posterior, and a run that has missed most of the posterior gives two bounds that agree, and are both too low.
    """

    lower: float
    """The log of the mean evidence of the SMC runs."""
    upper: float
    """Minus the log of the mean of one over the evidence of the conditional runs."""
    lower_runs: LogW
    """(R,) the log evidence of each SMC run, -inf if it died out: the mean of these, too, is a bound from below."""
    upper_runs: LogW
    """That of each conditional run, (R,) or fewer, as none is about the sample of a run that died out: the mean of
    these, too, is a bound from above."""
    exact: bool
    """Whether the conditional runs were about a sample that the caller vouches for."""

    @property
    def gap(self) -> float:
        """`upper` less `lower`, in nats: at most so far is either from the truth, in expectation, if `exact`."""
        return self.upper - self.lower


@suggest_names()
def bound_evidence(
    model: Any,
    *potentials: Any,
    particles: int = 16,
    runs: int = 4,
    sample: Any = None,
    sweeps: int = 3,
    seed: int | None = None,
) -> EvidenceBounds:
    """Bounds of the log of the normalising constant that `steer` estimates, in nats: how wrong can it be?

    The mean of the log evidence of SMC is below the truth (Jensen), that of conditional SMC about a sample of the
    posterior above it (Grosse, Ghahramani, Adams 2015; Zhao et al. 2024, section 5). What is more, the bounds meet as
    `particles` and `runs` grow.

    - `sample`: one exact sample of the posterior, as `model.trace` gives it: for a prompt its token ids, with the
      end-of-sequence token if it ended by one. Where a model has made the data itself, what it made them from is one;
      so is a text that the bare model wrote and every constraint accepts, and a draw from a Result of
      algorithm="exact". The upper bound is then exact.
    - `sweeps`: without a `sample`, particle Gibbs makes one for each run, from a path of SMC by this many conditional
      runs, the last of which is the bound. It is then approximate: too low while the chain has not mixed.
    - `runs`: SMC runs, and conditional runs or chains.

    Raises ArgumentError for a model that cannot walk a path again, and for a `sample` of weight zero; AllParticlesDied
    where no run of SMC finds a sample to begin with; and what models and potentials raise.
    """
    check_not_forked()
    if isinstance(model, list):
        raise ArgumentError("a list of models; bound the evidence of one model at a time")
    problem, streams = read_problems(model, potentials), Streams(seed)
    n = read_particles("particles", particles, 2, ": conditional SMC draws others beside its sample")
    runs, sweeps = read_count("runs", runs), read_count("sweeps", sweeps)
    potential = problem.find_potential(0)
    refusal = f"{type(model).__name__} cannot walk a path again, as prompts, programs and samplers can: no upper bound"
    joined = require(problem.join(), Replays, refusal, ArgumentError)
    pairs = [_bound(joined, potential, n, sample, sweeps, streams.child(run)) for run in range(runs)]
    lower, upper = np.array([low for low, _ in pairs]), np.array([high for _, high in pairs if high is not None])
    if not len(upper):
        raise AllParticlesDied(
            f"all {n} particles died in each of {runs} runs of SMC: no sample to bound about is known"
        )
    return EvidenceBounds(
        lower=log_sum_exp(lower) - math.log(runs),
        upper=math.log(len(upper)) - log_sum_exp(-upper),
        lower_runs=lower,
        upper_runs=upper,
        exact=sample is not None,
    )


def _bound(
    model: Any, potential: Any, n: int, sample: Any, sweeps: int, source: RandomSource
) -> tuple[float, float | None]:
    """The log evidence of one SMC run, and of one conditional run; None of the latter where the former has died."""
    resample, last = adaptive(ssp), deque[Step](maxlen=1)
    if sample is not None:
        return sandwich(model, potential, sample, n=n, resample=resample, rng=source)
    chain = gibbs(model, potential, n=n, sweeps=1 + sweeps, rng=source, resample=resample, observers=[last.append])
    try:
        log_z = [sweep.step.log_z for sweep in chain]
    except AllParticlesDied:
        if not last or last[0].log_z > -math.inf:  # then it was another run, inside of a potential or a program
            raise
        return -math.inf, None
    return log_z[0], log_z[-1]
