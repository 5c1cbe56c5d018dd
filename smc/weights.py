"""Sums over log-weights, safe where weights are zero."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW
from feynkac.base.errors import WeightError


def find_top(log_weight: LogW) -> float:
    """The largest of the (N,) log-weights, in nats; -inf if no row has mass.

    Raises WeightError for NaN and +inf, naming the row.
    """
    largest = float(log_weight.max(initial=-np.inf))
    if not largest < np.inf:
        row = int(np.flatnonzero(~(log_weight < np.inf))[0])
        raise WeightError(f"log-weight {log_weight[row]} in row {row}; use -inf to kill a particle")
    return largest


def rescale(log_weight: LogW) -> tuple[NDArray[np.float64], float]:
    """The (N,) weights as multiples of the largest, and the log of the largest: w_i = relative_i * exp(largest).

    All are 0 where no row has mass. Raises WeightError for NaN and +inf.
    """
    largest = find_top(log_weight)
    if largest == -np.inf:
        return np.zeros(len(log_weight)), largest
    shifted = log_weight - largest
    return np.exp(shifted, out=shifted), largest


def log_sum_exp(log_weight: LogW) -> float:
    """Log of the total weight in nats, -inf if no row has mass.

    Raises WeightError for NaN and +inf.
    """
    weight, largest = rescale(log_weight)
    return largest if largest == -np.inf else largest + float(np.log(weight.sum()))


def normalise(log_weight: LogW) -> NDArray[np.float64]:
    """(N,) weights that sum to 1, or all 0 if no row has mass.

    Raises WeightError for NaN and +inf.
    """
    weight, largest = rescale(log_weight)
    return weight if largest == -np.inf else weight / weight.sum()


def effective_sample_size(log_weight: LogW) -> float:
    """1 / sum W^2 of the normalised weights W, in particles: from 1 to N, and 0 if no row has mass.

    Raises WeightError for NaN and +inf. Kong, Liu, Wong (1994).
    """
    weight, largest = rescale(log_weight)
    # The largest weight is 1 here, so that neither sum can vanish or overflow.
    return 0.0 if largest == -np.inf else float(weight.sum()) ** 2 / float(weight @ weight)


def largest_share(log_weight: LogW) -> float:
    """max W of the normalised weights W, and 0 if no row has mass; 1 / max W is the infinity-ESS.

    Raises WeightError for NaN and +inf. Huggins, Roy (2019).
    """
    weight, largest = rescale(log_weight)
    return 0.0 if largest == -np.inf else 1.0 / float(weight.sum())
