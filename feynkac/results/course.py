"""What the steps of a run let one doubt: masks that leave next to nothing, and texts far from the model's own."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import quote
from feynkac.results.history import History
from feynkac.results.losses import find_running, pass_back, write_prefix
from feynkac.results.text import shorten
from feynkac.smc.weights import log_sum_exp, normalise

RARE = 11.5
"""Nats that masks may take in one step before a result warns of it: they leave one in 100,000."""
FAR = 4.0
"""Standard deviations by which texts may be less likely than those that were drawn: chance exceeds it once in 30,000
runs, if their log-probability is normal."""


class _Chosen(NamedTuple):
    """How texts of the posterior differ from what was drawn, up to some step."""

    nats: float
    """By how much less likely their tokens are."""
    variance: float
    """Of the log-probability of the tokens that were drawn, in nats squared."""


def doubt_course(history: History) -> list[str]:
    """What masks and rewards have done to the texts of a run, where it is suspicious: no text, or one for each.

    Nothing is said of runs whose model tells no log-probabilities, whose particles have all died or been moved, and of
    particle Gibbs.
    """
    if history.sweeps or any(history.moved) or not (history.pieces and history.carried and history.increments):
        return []
    passing = pass_back(history)
    if not passing[-1].any() or any(math.isnan(nats) for column in history.log_probs for nats in column):
        return []
    worst, total = (0.0, 0, 0), _Chosen(0.0, 0.0)
    for t, own in enumerate(passing):
        rows = np.flatnonzero(find_running(history, t))
        if len(rows):
            carried = np.array(history.carried[t])
            worst = max(worst, _find_lost(history, t, rows, carried))
            total = _add(total, -np.array(history.log_probs[t])[rows], normalise(carried[rows]), own[rows])
    return [*_warn_of_masks(history, *worst), *_warn_of_texts(total, history)]


def _find_lost(
    history: History, t: int, rows: NDArray[np.int64], carried: NDArray[np.float64]
) -> tuple[float, int, int]:
    """Nats that masks took from the `rows` that ran, if they had most of the weight; the step, and the heaviest row."""
    before = log_sum_exp(carried[rows])
    if before < log_sum_exp(carried) + math.log(0.5):
        return 0.0, t, 0
    left = log_sum_exp(carried[rows] + np.array(history.increments[t])[rows])
    return before - left, t, int(rows[carried[rows].argmax()])


def _add(total: _Chosen, nats: NDArray[np.float64], weight: NDArray[np.float64], own: NDArray[np.float64]) -> _Chosen:
    """One step more: `nats` (R,) of what was drawn, `weight` (R,), and `own` (R,) the part of each in the posterior.

    A token is drawn from the model's law behind its prefix, by masks if there are any; which of them go on is what
    weights decide.
    """
    drawn = np.isfinite(nats)
    nats, weight, own = nats[drawn], weight[drawn], own[drawn]
    if not (weight.sum() > 0.0 and own.sum() > 0.0):
        return total
    weight = weight / weight.sum()
    mean = float(weight @ nats)
    here = float(own.sum())
    return _Chosen(
        total.nats + float(own @ nats) - here * mean, total.variance + here * float(weight @ (nats - mean) ** 2)
    )


def _warn_of_masks(history: History, lost: float, t: int, row: int) -> list[str]:
    if not RARE < lost < math.inf:
        return []
    behind = write_prefix(history, t, row)
    where = f"behind {quote(shorten(behind[-60:], 70))}" if behind else "at the start"
    return [
        f"almost impossible: {where} the model gives all that the constraints allow a probability of "
        f"{math.exp(-lost):.0e} ({lost:.1f} of the {-history.log_evidence[-1]:.1f} nats of the evidence); ask for it "
        "in the prompt, or loosen the constraint there (a blank or a line end first?)"
    ]


def _warn_of_texts(chosen: _Chosen, history: History) -> list[str]:
    spread = math.sqrt(chosen.variance)
    if chosen.nats <= FAR * spread or spread == 0.0:
        return []
    return [
        f"far from the model's own texts: what was chosen is {chosen.nats:.0f} nats less likely than what was drawn, "
        f"{chosen.nats / spread:.1f} standard deviations; a reward that such texts meet best is over-optimised. Weaken "
        "it (reward ** 0.5), or let fk.ruler tell what its gain costs"
    ]
