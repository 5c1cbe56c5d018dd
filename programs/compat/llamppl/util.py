"""Sums over logits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, quote


def read_logits(nums: Any) -> NDArray[Any]:
    """`nums` as an array. Raises ArgumentError for what are no real numbers, none at all, NaN or infinity."""
    try:
        found = np.asarray(nums)
        if found.dtype.kind in "iuf" and found.max() < np.inf:
            return found
    except Exception:  # of lists of different lengths, and of whatever else is no array
        pass
    raise ArgumentError(f"logits are {quote(nums)}; give an array of numbers, which may be -inf")


def logsumexp(nums: Any) -> Any:
    """log(sum(exp(nums))), in float64 inside. Raises ArgumentError for what are no numbers."""
    nums = read_logits(nums).astype(np.float64, copy=False)
    top = nums.max()
    return top if top == -np.inf else top + math.log(np.exp(nums - top).sum())


def log_softmax(nums: Any) -> NDArray[Any]:
    """The logarithms of `softmax(nums)`. Raises ArgumentError for what are no numbers, or all of them -inf."""
    nums = read_logits(nums)
    total = logsumexp(nums)
    if total == -np.inf:
        raise ArgumentError("all logits are -inf, so that nothing can be drawn")
    return nums - total


def softmax(nums: Any) -> NDArray[Any]:
    """Probabilities proportional to exp(nums)."""
    return np.exp(log_softmax(nums))
