"""Numbers as tensors, wherever torch puts new ones: what models and potentials read them by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list

_DEPTH = 8
"""How deep lists of numbers may be nested."""


def take_tensor(numbers: Any, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor on its own device, other numbers on the CPU, whatever torch's default device is."""
    return torch.as_tensor(numbers, dtype=dtype, device=numbers.device if isinstance(numbers, Tensor) else "cpu")


def read_tensor(
    name: str,
    value: Any,
    dtype: torch.dtype | None = None,
    advice: str = "give a tensor, an array or a list of numbers",
    infinite: bool = False,
) -> Tensor:
    """`value` as a tensor of real numbers, none of them NaN or infinite, where it lies; lists and arrays on the CPU.

    Raises ArgumentError by the `name` of the argument for anything else: texts, complex and missing numbers, lists of
    different lengths, tensors that are sparse or have no memory. `infinite`: whether a number may be so, but not NaN.
    """
    try:
        tensor = take_tensor(value if isinstance(value, Tensor) else _take_numbers(value, _DEPTH), dtype)
    except ArgumentError:
        raise
    except Exception as cause:
        raise ArgumentError(f"{name} is {quote(value)}; {advice}") from cause
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
        raise ArgumentError(f"{name} is {quote(value)}; {advice}, dense, real and with memory of its own")
    if bool(tensor.isnan().any()) or not (infinite or bool(tensor.isfinite().all())):
        raise ArgumentError(f"{name} holds NaN or infinity; {advice}")
    return tensor


def _take_numbers(value: Any, depth: int) -> Any:
    """What is in lists and arrays, without a question to objects of unknown classes."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError("some numbers are masked")
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "fiub":
            raise TypeError("no array of numbers")
        array = np.asarray(value)
        return array if array.flags.writeable else array.copy()  # torch warns of what it must not write to
    if isinstance(value, Tensor):
        return value.detach().cpu().to(torch.promote_types(value.dtype, torch.float32)).numpy()
    if isinstance(value, bool | int | float):
        return value
    found = as_list(value) if depth and isinstance(value, Sequence) else None
    if found is None:
        raise TypeError("no numbers")
    return np.array([_take_numbers(each, depth - 1) for each in found]) if found else np.empty(0)
