"""How a run went, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

DIGITS = 6
"""Digits behind the point to which a history has its nats."""


@dataclass(frozen=True)
class History:
    """How a run went, one entry a step; of what each particle did, one entry a particle, in the order of its row.

    What the model does not tell is an empty list. Nats are rounded to six decimals, -inf for no weight.
    """

    ess: list[float]
    """Effective sample size of the weighted population."""
    log_evidence: list[float]
    """Estimate of the log normalising constant so far, in nats; guesses of the potentials included."""
    unique_ancestors: list[int]
    """How many particles of the first step still have descendants."""
    resampled: list[int]
    """The steps that began with a resampling."""
    rows: list[list[int]]
    """The parent of each particle in the population of the step before: the family tree."""
    levels: list[list[float]] = field(default_factory=list)
    """What the potentials foresee for each particle, in nats; -inf for those that died."""
    sweeps: list[int] = field(default_factory=list)
    """Particle Gibbs: the entries at which a sweep begins, one sweep after the other. Empty for other algorithms."""
    pieces: list[list[str]] = field(default_factory=list)
    """What each particle added in this step, as text; "" where it added nothing, as one that has finished."""
    log_probs: list[list[float]] = field(default_factory=list)
    """Nats of that piece under the model's own law, before masks and potentials; nan where they are not known, 0 where
    nothing was added."""
    increments: list[list[float]] = field(default_factory=list)
    """Nats that the model itself added to each log-weight: the mass that masks left, and the ratios of proposals."""
    log_weights: list[list[float]] = field(default_factory=list)
    """Absolute log-weight of each particle after the step, in nats, its level included."""
    carried: list[list[float]] = field(default_factory=list)
    """The log-weight with which each particle entered the step, once it was resampled, in nats."""
    killers: list[list[str]] = field(default_factory=list)
    """The potential that gave the particle weight zero in this step; "" for all others."""
    moved: list[list[int]] = field(default_factory=list)
    """The particles whose earlier pieces a move had replaced before this step: what their ancestors added is not what
    they hold. Empty where nothing moves; the pieces that samples hold are in `Result.token_log_probs`."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Sequence[NDArray[Any]]], **lists: Any) -> History:
        """A history of `lists`, and of fields that are made of `arrays` (N,), one a step, when they are asked for.

        Thousands of particles have millions of numbers, which as lists take longer to make than a run of a sampler.
        """
        found = cls(**lists, **{name: [] for name in arrays})
        kept = vars(found)
        for name in arrays:
            del kept[name]
        kept["_arrays"] = dict(arrays)
        return found

    if not TYPE_CHECKING:  # to whom any name would then be one of a history

        def __getattr__(self, name: str) -> Any:
            arrays = vars(self).get("_arrays", {})
            if name not in arrays:
                raise AttributeError(f"'History' object has no attribute '{name}'", name=name, obj=self)
            vars(self)[name] = lists = [_round(array).tolist() for array in arrays[name]]
            vars(self)["_arrays"] = {other: array for other, array in arrays.items() if other != name}
            return lists


def _round(array: NDArray[Any]) -> NDArray[Any]:
    """`array` to `DIGITS` digits; numbers so large that numpy would make them infinite are as they were."""
    with np.errstate(over="ignore"):
        rounded = array.round(DIGITS)
    return np.where(np.isinf(rounded), array, rounded)


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of the whole batch, and where they went."""

    total: float
    model: float
    potentials: float
