"""Vectors that make texts likeliest, by gradients of their nats."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def descend(
    vectors: Tensor, measure: Callable[[Tensor], tuple[float, Tensor]], steps: int, rate: float
) -> tuple[Tensor, float]:
    """The best of `vectors` and what `steps` steps of Adam make of them, and its nats.

    `measure`: the nats of vectors, which ask for a gradient, and this gradient. `rate`: how far a number moves in the
    first step; it shrinks to 0 by a cosine.
    """
    adam = torch.optim.Adam([vectors], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    best, least = vectors.detach().clone(), float("inf")
    for step in range(steps + 1):
        nats, gradient = measure(vectors)
        if nats < least:
            best, least = vectors.detach().clone(), nats
        if step < steps:
            vectors.grad = gradient
            adam.step()
            schedule.step()
    return best, least
