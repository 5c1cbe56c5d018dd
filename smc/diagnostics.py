"""What a run says about itself: how far its evidence may be off, as far as its own weights tell.

No run can tell of mass that none of its particles has met.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW, Mask
from feynkac.base.numbers import hold_the_same
from feynkac.smc.engine import Step
from feynkac.smc.evidence import split_evidence
from feynkac.smc.history import count_distinct
from feynkac.smc.tails import estimate_tail
from feynkac.smc.weights import log_sum_exp, normalise

UNEVEN = 0.5
"""Relative variance of the weights, N / ESS - 1, up to which their tail cannot matter, whatever its index."""


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """How the weight of a run is spread, and what that says of its evidence."""

    log_parts: list[float]
    """Log evidence of each independent part, in nats: each island, or slices of particles that were never resampled."""
    part_spread: float
    """Standard deviation that the weights foresee for the log evidence of one part, in nats."""
    spread: float
    """The same for the evidence of the whole run: the root of sum_t (1 / ESS_t - 1 / N) over the populations that were
    resampled, and the last one."""
    last_spread: float
    """The share of the last population in `spread`, in nats: that of the weights since the last resampling."""
    tail: float
    """Tail index of the last weights (see `smc.tails`); nan where they are nearly equal, or too few to tell."""
    heaviest_particle: float
    """The largest share of one particle in the sum of all weights."""
    heaviest_part: float
    """The largest share of one part in it."""
    ancestors: int
    """First particles that still have descendants with weight."""

    def __eq__(self, other: object) -> bool:
        return hold_the_same(self, other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # it holds a list


class Spread:
    """Follows one group of a run and adds up what each of its islands loses by resampling.

    The relative variance of Z_hat is about the sum of 1 / ESS_t - 1 / N over the populations that are resampled, were
    they independent (Whiteley 2013 has the exact terms). Schemes that leave weights unequal lose less than that.
    """

    def __init__(self, islands: int = 1) -> None:
        self.islands = islands
        self.resampled = False
        self.lost: NDArray[np.float64] = np.zeros(islands)
        """(B,) relative variance of each island's evidence, up to its last resampling."""
        self._log_weight: LogW | None = None
        self._roots: NDArray[np.int64] | None = None
        self._by_chance: Mask | None = None

    def __call__(self, step: Step) -> None:
        before, self._log_weight = self._log_weight, step.log_weight
        self._by_chance = step.by_chance
        self._roots = np.arange(len(step.rows)) if self._roots is None else self._roots[step.rows]
        if step.lost is not None:
            self.resampled, self.lost = True, self.lost + step.lost
        elif before is not None and any(step.resampled):
            self.resampled = True
            moved = find_moved(step, self.islands)
            lost = self.lost.copy()  # a copy of this object stays as it is
            lost[moved] += lose(np.split(before, self.islands))[moved]
            self.lost = lost

    def diagnose(self) -> Diagnostics:
        """What the population seen last says, once there is one."""
        assert self._log_weight is not None and self._roots is not None
        own = [part + math.log(self.islands) for part in np.split(self._log_weight, self.islands)]
        ancestors = count_distinct(self._roots[self._log_weight > -np.inf])
        if self._by_chance is not None:
            return self._diagnose_chances(own, ancestors)
        return diagnose(own, self.lost, ancestors, resampled=self.resampled)

    def _diagnose_chances(self, own: list[LogW], ancestors: int) -> Diagnostics:
        """The same where `Step.lost` counts all chances: weights that are certain may be as uneven as they like."""
        log_z = np.array([log_sum_exp(part) for part in own])
        share = normalise(log_z)
        assert self._by_chance is not None
        by_chance = np.split(self._by_chance, len(own))
        drawn = [normalise(part)[here].max(initial=0.0) for part, here in zip(own, by_chance, strict=True)]
        return Diagnostics(
            log_parts=log_z.tolist(),
            part_spread=math.sqrt(float(self.lost.mean())),
            spread=math.sqrt(float(share**2 @ self.lost)),
            last_spread=0.0,
            tail=math.nan,
            heaviest_particle=float((share * drawn).max()),
            heaviest_part=float(share.max()),
            ancestors=ancestors,
        )


def find_moved(step: Step, islands: int) -> Mask:
    """(B,) which islands were resampled before this step, as far as the parents of its rows tell."""
    n = step.parents[0].stop - step.parents[0].start
    if n != len(step.rows):
        return np.ones(islands, dtype=np.bool_)
    return (step.rows != np.arange(n)).reshape(islands, -1).any(axis=1)


def lose(populations: Sequence[LogW]) -> NDArray[np.float64]:
    """(B,) sum of squared normalised weights less that of equal ones: 1 / ESS - 1 / N; 1 for a dead population."""
    weights = [normalise(population) for population in populations]
    return np.array([max(0.0, float(w @ w) - 1.0 / len(w)) if w.any() else 1.0 for w in weights])


def diagnose(
    populations: Sequence[LogW], lost: NDArray[np.float64], ancestors: int, *, resampled: bool = True
) -> Diagnostics:
    """What B independent populations say, each with absolute log-weights whose sum estimates Z alone.

    `lost`: (B,) what each lost by resampling, as `Spread` counts it.
    """
    if not resampled:  # particles that never met are one population, however many islands they were called
        populations, lost = [np.concatenate(populations) - math.log(len(populations))], np.zeros(1)
    log_z = np.array([log_sum_exp(population) for population in populations])
    log_parts = log_z if resampled else split_evidence(populations[0], resampled=False)
    last, share = lose(populations), normalise(log_z)
    # N particles that agree may have missed one in N: no less is foreseen than with one more, of weight zero.
    unseen = np.array([1.0 / (len(each) * (len(each) + 1.0)) for each in populations])
    total = np.maximum(lost + last, unseen)
    variance = float(total.mean())
    return Diagnostics(
        log_parts=log_parts.tolist(),
        part_spread=math.sqrt(variance if resampled else variance * len(log_parts)),
        spread=math.sqrt(float(share**2 @ total)),
        last_spread=math.sqrt(float(share**2 @ last)),
        tail=_find_tail(populations, log_z),
        heaviest_particle=float(max(s * normalise(w).max() for s, w in zip(share, populations, strict=True))),
        heaviest_part=float(normalise(log_parts).max()),
        ancestors=ancestors,
    )


def _find_tail(populations: Sequence[LogW], log_z: NDArray[np.float64]) -> float:
    """The tail index of all weights, each island's relative to its own evidence, so that theirs does not count."""
    alive = [w - z for w, z in zip(populations, log_z, strict=True) if z > -np.inf]
    pooled = np.concatenate([*alive, np.empty(0)])
    uneven = lose([pooled])[0] * len(pooled) if len(pooled) else 0.0
    return estimate_tail(pooled) if uneven > UNEVEN else math.nan
