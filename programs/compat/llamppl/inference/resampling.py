"""Resampling by name: functions of (N,) weights that sum to 1, which return (N,) parents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.programs.compat.llamppl.inference.driving import open_streams
from feynkac.smc.resample import by_name

Resampling: TypeAlias = Callable[[Any], NDArray[np.int64]]


def multinomial_resample(weights: Any) -> NDArray[np.int64]:
    """Independent parents."""
    return _resample("multinomial", weights)


def residual_resample(weights: Any) -> NDArray[np.int64]:
    """The whole parts of the expected children for certain, the rest independently."""
    return _resample("residual", weights)


def stratified_resample(weights: Any) -> NDArray[np.int64]:
    """One parent in each of N strata."""
    return _resample("stratified", weights)


def systematic_resample(weights: Any) -> NDArray[np.int64]:
    """One random number for all strata."""
    return _resample("systematic", weights)


RESAMPLING_METHODS: dict[str, Resampling] = {
    "multinomial": multinomial_resample,
    "residual": residual_resample,
    "stratified": stratified_resample,
    "systematic": systematic_resample,
}


def get_resampling_fn(method: str) -> Resampling:
    """The function of a name, that of any other scheme of `feynkac.smc.resample` as well. Raises ArgumentError."""
    by_name(method)
    return RESAMPLING_METHODS.get(method, lambda weights: _resample(method, weights))


def _resample(method: str, weights: Any) -> NDArray[np.int64]:
    with np.errstate(divide="ignore"):
        log_weight = np.log(np.asarray(weights, dtype=np.float64))
    rows, _ = by_name(method)(log_weight, open_streams(None).at("resample", 0))
    return np.arange(len(log_weight)) if rows is None else rows
