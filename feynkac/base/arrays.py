"""Arrays of numbers as arguments: of lists, arrays and tensors, and of nothing that only looks like one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, quote

_LISTS = "give an array or a list of numbers"


def read_array(name: str, value: Any, advice: str = _LISTS) -> NDArray[np.float64]:
    """`value` as an array of finite real numbers, of any shape, that is not the user's own.

    Raises ArgumentError by the `name` of the argument for anything else: texts, truth values, complex and missing
    numbers, lists of different lengths, tensors that are not on the CPU or have a gradient.
    """
    found = _take(name, value, advice)
    if found.dtype.kind not in "iuf" and found.size:
        raise ArgumentError(f"{name} is {quote(value)}; {advice}")
    result = found.astype(np.float64)
    if not np.isfinite(result).all():
        raise ArgumentError(f"{name} holds NaN or infinity, {quote(value)}; {advice}")
    return result


def read_whole_array(name: str, value: Any, advice: str = "give an array or a list of integers") -> NDArray[np.int64]:
    """`value` as an array of integers, of any shape, that is not the user's own.

    Raises ArgumentError by the `name` of the argument for anything else, such as 1.0 and True.
    """
    found = _take(name, value, advice)
    if (found.dtype.kind not in "iu" and found.size) or (found.dtype.kind == "u" and (found > 1 << 62).any()):
        raise ArgumentError(f"{name} is {quote(value)}; {advice}")
    return found.astype(np.int64)


def read_truth_array(name: str, value: Any, advice: str = "give an array or a list of bool") -> NDArray[np.bool_]:
    """`value` as an array of truth values that is not the user's own. Raises ArgumentError by the `name` of it."""
    found = _take(name, value, advice)
    if found.dtype.kind != "b" and found.size:
        raise ArgumentError(f"{name} is {quote(value)}; {advice}")
    return found.astype(np.bool_)


def _take(name: str, value: Any, advice: str) -> NDArray[Any]:
    try:
        if isinstance(value, str | bytes | bytearray | memoryview) or np.ma.is_masked(value):
            raise TypeError("no numbers, or some are missing")
        return np.asarray(value)
    except Exception as cause:  # of lists that are no table, and of whatever objects and tensors raise
        raise ArgumentError(f"{name} is {quote(value)}; {advice}") from cause
