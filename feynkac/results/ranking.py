"""Equal samples taken together, and samples in the order of their weights."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def rank_samples(samples: list[Any], weights: NDArray[np.float64]) -> list[tuple[Any, float]]:
    """Each distinct sample that has weight, with all of it, the heaviest first."""
    return sorted([entry for entry in merge_samples(samples, weights) if entry[1] > 0.0], key=lambda entry: -entry[1])


def merge_samples(samples: list[Any], weights: NDArray[np.float64]) -> list[tuple[Any, float]]:
    """Equal samples with their weights added; samples that cannot be hashed stay apart."""
    total: dict[Any, tuple[Any, float]] = {}
    for i, (sample, weight) in enumerate(zip(samples, weights.tolist(), strict=True)):
        key = sample if isinstance(sample, Hashable) else ("row", i)
        total[key] = (sample, total.get(key, (sample, 0.0))[1] + weight)
    return list(total.values())
