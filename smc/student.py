"""Quantiles of Student's t, for which alone the core would have to install a large library."""

from __future__ import annotations

import math


def student_cdf(t: float, degrees: int) -> float:
    """P(T <= t) for a whole number of degrees of freedom, a finite sum (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(degrees))
    cosine = math.cos(angle)
    term = cosine if degrees % 2 else 1.0
    total = term if degrees > 1 or degrees % 2 == 0 else 0.0
    for j in range(2 + degrees % 2, degrees, 2):
        term *= cosine**2 * (j - 1) / j
        total += term
    inside = 2.0 / math.pi * (angle + math.sin(angle) * total) if degrees % 2 else math.sin(angle) * total
    return 0.5 + inside / 2.0


def student_quantile(p: float, degrees: int) -> float:
    """The t with P(T <= t) = `p`, for 0.5 <= p < 1, to nearly the precision of a float."""
    low, high = 0.0, 1.0
    while student_cdf(high, degrees) < p:
        low, high = high, 2.0 * high
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if student_cdf(middle, degrees) < p else (low, middle)
    return high
