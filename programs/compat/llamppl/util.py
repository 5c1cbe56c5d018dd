"""Sums over logits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def logsumexp(nums: Any) -> Any:
    """log(sum(exp(nums))), in float64 inside."""
    nums = np.asarray(nums, dtype=np.float64)
    top = nums.max()
    return top if top == -np.inf else top + math.log(np.exp(nums - top).sum())


def log_softmax(nums: Any) -> NDArray[Any]:
    """The logarithms of `softmax(nums)`."""
    nums = np.asarray(nums)
    return nums - logsumexp(nums)


def softmax(nums: Any) -> NDArray[Any]:
    """Probabilities proportional to exp(nums)."""
    return np.exp(log_softmax(nums))
