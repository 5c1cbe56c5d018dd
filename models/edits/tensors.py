"""Numbers as tensors, wherever torch puts new ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def take_tensor(numbers: Any, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor on its own device, other numbers on the CPU, whatever torch's default device is."""
    return torch.as_tensor(numbers, dtype=dtype, device=numbers.device if isinstance(numbers, Tensor) else "cpu")
