"""Top-p: the fewest of the likeliest tokens that have a given mass, without sorting the whole vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

FIRST, TIMES = 128, 8
"""Tokens that are sorted at first, and how many times more where they have not mass enough."""


def keep_nucleus(scores: Tensor, top_p: float) -> Tensor:
    """(U, V) scores with -inf in place of those outside of the nucleus (Holtzman et al. 2020).

    A token is in it if those before it have less mass than `top_p` (U rows, each by itself), and the first one always.
    Of equal scores those with the larger ids come first: scores of low precision have many, and the same text must have
    the same law each time.
    """
    lowest, kept, crowded = _find_lowest(scores, top_p)
    outside = scores < lowest[:, None]
    if len(crowded):
        tied = scores[crowded] == lowest[crowded, None]
        rank = tied.flip(1).cumsum(1).flip(1)
        outside[crowded] |= tied & (rank > kept[crowded, None])
    return scores.masked_fill(outside, -np.inf)


def _find_lowest(scores: Tensor, top_p: float) -> tuple[Tensor, Tensor, Tensor]:
    """(U,) the lowest score in each nucleus, (U,) how many tokens of that score it has, and the rows that have more."""
    import torch

    n, size = scores.shape
    peak = scores.amax(1, keepdim=True)
    enough = top_p * (scores - peak).exp_().sum(1, keepdim=True).double()
    lowest, kept = scores.new_empty(n), torch.empty(n, dtype=torch.int64, device=scores.device)
    left = torch.arange(n, device=scores.device)
    crowded = left[:0]
    k = min(FIRST, size)
    while len(left):
        best = torch.topk(scores if len(left) == n else scores[left], k).values
        mass = torch.exp(best.double() - peak[left])
        inside = mass.cumsum(1) - mass < enough[left]
        inside[:, 0] = True
        count = inside.sum(1)
        last = best.gather(1, count[:, None] - 1)
        lowest[left], kept[left] = last[:, 0], (inside & (best == last)).sum(1)
        after = best.gather(1, count[:, None].clamp(max=k - 1))[:, 0]
        crowded = torch.cat([crowded, left[(count < k) & (after == last[:, 0])]])
        left = left[:0] if k == size else left[count == k]
        k = min(TIMES * k, size)
    return lowest, kept, crowded
