"""The smallest kernel, which shows whether any runs."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit
def _add_one(numbers, N: tl.constexpr):
    at = numbers + tl.arange(0, N)
    tl.store(at, tl.load(at) + 1)


def count_up(device: torch.device) -> list[int]:
    """The numbers from 1 to 4, made on a device from those from 0 to 3."""
    numbers = torch.arange(4, device=device)
    with torch.cuda.device_of(numbers):
        launch: Any = _add_one[(1,)]
        launch(numbers, N=4)
    return numbers.tolist()
