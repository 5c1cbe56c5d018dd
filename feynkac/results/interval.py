"""Where the log evidence of a result is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import as_real
from feynkac.results.doubts import find_spread
from feynkac.smc.evidence import bound_evidence, find_interval

if TYPE_CHECKING:
    from feynkac.results.result import Result


def is_of_target(result: Result) -> bool:
    """Whether weights and evidence are those of the target itself, and not of the target so far, guesses included.

    Of runs that were stopped they are where "exact" has listed some samples, or a sweep of particle Gibbs had ended.
    """
    return result.complete or result.algorithm == "exact" or bool(result.history.sweeps)


def find_result_interval(result: Result, confidence: float) -> tuple[float, float]:
    """See `Result.log_evidence_interval`."""
    if not 0.0 < (as_real(confidence) or 0.0) < 1.0:
        raise ArgumentError(f"confidence is {quote(confidence)}; it must be between 0 and 1, such as 0.95")
    if result.biased or not is_of_target(result):
        return -math.inf, math.inf
    if result.algorithm == "exact":
        return result.log_evidence, result.log_evidence if result.complete else math.inf
    if result.diagnostics is None:
        return bound_evidence(result.log_evidence, confidence), math.inf
    parts = np.array(result.diagnostics.log_parts)
    low, high = find_interval(result.log_evidence, parts, find_spread(result.diagnostics), confidence)
    sure = -math.inf if result.lower_bound is None else result.lower_bound
    # An interval that lies below what is certain is wrong: of it nothing is left.
    return (max(low, sure), high) if high >= sure else (sure, math.inf)
