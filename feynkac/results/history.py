"""How a run went, and how long it took."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class History:
    """How a run went, one entry a step."""

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
    """What the potentials foresee for each particle, in nats to six decimals; -inf for those that died."""
    sweeps: list[int] = field(default_factory=list)
    """Particle Gibbs: the entries at which a sweep begins, one sweep after the other. Empty for other algorithms."""


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of the whole batch, and where they went."""

    total: float
    model: float
    potentials: float
