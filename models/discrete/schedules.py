"""Schedules: how fast discrete diffusion hides its tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_count, read_finite
from feynkac.smc.checks import call

Schedule: TypeAlias = Callable[[float], float]
"""alpha(t), the probability that a clean token is still visible at time t: 1 at 0, falling to 0 at 1."""


def linear(t: float) -> float:
    """alpha(t) = 1 - t."""
    return 1.0 - t


def cosine(t: float) -> float:
    """alpha(t) = 1 - cos(pi (1 - t) / 2): slow at first, when a canvas is nearly empty (Shi et al. 2024, table 4)."""
    return 1.0 - math.cos(0.5 * math.pi * (1.0 - t))


def make_grid(steps: int, alpha: Schedule) -> NDArray[np.float64]:
    """(steps + 1,) alpha at equally spaced times from 1 down to 0. Raises ArgumentError for no falling schedule."""
    count = read_count("steps", steps)
    if isinstance(alpha, type) or not callable(alpha):
        raise ArgumentError(
            f"alpha is {quote(alpha)}; give a function of the time from 0 to 1, such as linear or cosine"
        )
    said = [call(alpha, 1.0 - i / count, of=alpha, error=ArgumentError) for i in range(1, count)]
    values = np.array([0.0, *(read_finite("what the schedule alpha returns", each) for each in said), 1.0])
    if not (np.diff(values) >= 0.0).all():
        raise ArgumentError(f"the schedule has alpha {values} on its way from time 1 to 0; it must rise from 0 to 1")
    return values
