"""Whether the estimate of the evidence has the mean that it must have, where all samples can be listed."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np

from feynkac.base.capabilities import Enumerates, has
from feynkac.base.contract import Model
from feynkac.base.errors import FeynkacError
from feynkac.potentials.base import Factor
from feynkac.smc.engine import smc
from feynkac.smc.resample import islands, multinomial
from feynkac.smc.rng import Streams
from feynkac.smc.testing import Choices, enumerate_runs
from feynkac.smc.weights import log_sum_exp
from feynkac.steering.checking.report import Report

_MOST = 400  # samples that are listed
_RUNS = 200
_UNLISTED = (NotImplementedError, TypeError, RuntimeError)
"""What is raised where draws have no list, such as those of a normal law."""
_LIMIT = 4.5
"""Standard errors: a normal mean lies farther out once in 150,000 times, and we ask twice, by other numbers."""


def find_evidence(model: Any, potential: Factor, steps: int) -> float | None:
    """Nats, the log evidence summed over all samples; None where they are many or cannot be listed."""
    if has(model, Enumerates):
        found = model.enumerate(_MOST, False, lambda done: None)
        final = potential.final(found.state, np.arange(len(found.log_prob)))
        return log_sum_exp(found.log_prob + final) if found.log_left == -math.inf else None
    return _walk_all(model, potential, steps)


def _walk_all(model: Any, potential: Factor, steps: int) -> float | None:
    """The same of any model whose draws can be followed one by one."""

    def run(rng: Choices) -> float | None:
        state, log_w = model.init(1, rng), 0.0
        for t in range(steps):
            state, increment = model.step(t, state, rng)
            log_w += float(increment[0])
            if log_w == -math.inf:
                return -math.inf
            if model.done(state)[0]:
                return log_w + float(potential.final(state, np.array([0]))[0])
        return None

    terms = []
    try:
        for p, value in islice(enumerate_runs(run), _MOST + 1):
            if value is None:
                return None
            terms.append(math.log(p) + value)
    except _UNLISTED:
        return None
    except FeynkacError as error:  # as programs and models tell it
        if not isinstance(error.__cause__, _UNLISTED):
            raise
        return None
    return log_sum_exp(np.array(terms)) if len(terms) <= _MOST else None


def check_evidence(
    report: Report, model: Any, prepare: Callable[[], Model], potential: Factor, n: int, steps: int, seed: int
) -> None:
    """E[Z] = Z: the mean over runs, resampled at each step, beside the sum over all samples."""
    log_z = find_evidence(model, potential, steps)
    if log_z is None:
        report.notes.append(
            f"the model is too large to be listed ({_MOST} samples of {steps} steps), so that E[Z] = Z was not tried; "
            "try a smaller one"
        )
        return
    if log_z == -math.inf:
        report.notes.append("no sample of the model has weight")
        return
    found = [_measure(prepare(), potential, n, Streams(seed).child(k), log_z) for k in (1, 2)]
    if all(abs(z) > _LIMIT for _, z in found):
        report.add_fault(
            f"the mean of exp(log_z) over {_RUNS} runs is {found[0][0]:.3g} times what the sum over all samples gives "
            f"({log_z:.4g} nats), {found[0][1]:.1f} standard errors off, and {found[1][0]:.3g} times over as many "
            "others: a weight is wrong, or samples with weight are never drawn"
        )
    else:
        report.passed.append(
            f"E[Z] = Z: {found[0][0]:.3g} times the sum over all samples, {found[0][1]:.1f} standard errors off (a "
            f"fault is told beyond {_LIMIT}, twice)"
        )


def _measure(model: Any, potential: Factor, n: int, streams: Streams, log_z: float) -> tuple[float, float]:
    """The mean of Z over its true value, and how many standard errors that is off."""
    *_, last = smc(model, potential, n=n * _RUNS, resample=islands(multinomial, _RUNS), rng=streams)
    ratio = _RUNS * np.exp(last.log_weight - log_z).reshape(_RUNS, n).sum(axis=1)
    error = ratio.std(ddof=1) / math.sqrt(_RUNS)
    gap = ratio.mean() - 1.0
    return float(ratio.mean()), 0.0 if abs(gap) < 1e-9 else gap / error if error > 1e-12 else math.copysign(99.0, gap)
