"""Attention with its log mass on other devices than the CPU: which operator of torch serves which tensors.

The operators are private to torch, and this is the one place that calls them. Each takes query (B, H, M, D), key and
value (B, H, L, D) and perhaps a bias (B, H, M, L). It gives (B, H, M, D) in the query's type and (B, H, M) float32, the
log-sum-exp of the scaled and biased scores, in nats. None of them stores the scores, or copies keys and values to
float32, but the last, `attend_by_products`, which serves everything and is what the others are tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor

Attended: TypeAlias = tuple[Tensor, Tensor]
Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, "Tensor | None", float], Attended]

HALVES = (torch.float16, torch.bfloat16)
_BIAS_ALIGNMENT = 16
"""Elements of which a row of a bias must take a multiple in memory."""


@dataclass(frozen=True)
class Operator:
    """An operator, and what it can be asked."""

    attend: Attend
    dtypes: tuple[torch.dtype, ...]
    biased: bool
    """Whether it takes a bias."""
    least: tuple[int, int]
    """The compute capability of the device that it needs."""
    largest: int
    """The largest head; its size must be a multiple of eight, and the same for keys and values."""


def attend_by_flash(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Attended:
    """FlashAttention 2 (Dao 2023), for half precision and no bias."""
    assert bias is None
    found = torch.ops.aten._scaled_dot_product_flash_attention.default(query, key, value, 0.0, False, scale=scale)
    return found[0], found[1]


def attend_efficiently(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Attended:
    """The memory-efficient attention of xFormers; it pads the log masses of the queries to a multiple of 32."""
    if bias is not None:
        bias = _align(bias.to(query.dtype)).expand(*query.shape[:3], key.shape[2])
    operator = torch.ops.aten._scaled_dot_product_efficient_attention.default
    found = operator(query, key, value, bias, True, 0.0, False, scale=scale)
    return found[0], found[1][..., : query.shape[2]]


def attend_by_products(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Attended:
    """Two matrix products in float32, the scores between them."""
    scores = query.float() @ key.float().transpose(-1, -2) * scale
    if bias is not None:
        scores += bias
    mass = scores.logsumexp(-1, keepdim=True)
    return (scores.sub_(mass).exp_() @ value.float()).to(query.dtype), mass[..., 0]


OPERATORS = (
    Operator(attend_by_flash, HALVES, biased=False, least=(8, 0), largest=256),
    Operator(attend_efficiently, (*HALVES, torch.float32), biased=True, least=(8, 0), largest=65536),
)
"""In the order in which they are asked, all of CUDA. Devices of AMD, Intel and Apple are served by products."""


def choose_operator(query: Tensor, key: Tensor, value: Tensor, biased: bool) -> Attend:
    """The fastest operator that serves these tensors."""
    alike = len({(x.shape[-1], x.dtype) for x in (query, key, value)}) == 1
    size, capability = query.shape[-1], find_capability(query.device)
    for one in OPERATORS if alike and size % 8 == 0 else ():
        takes = query.dtype in one.dtypes and size <= one.largest and (one.biased or not biased)
        if takes and capability >= one.least:
            return one.attend
    return attend_by_products


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Attended:
    """The attention of M queries over L keys, and its log mass (see above)."""
    return choose_operator(query, key, value, bias is not None)(query, key, value, bias, scale)


@cache
def find_capability(device: torch.device) -> tuple[int, int]:
    """The compute capability of a CUDA device; (0, 0) of any other."""
    if device.type != "cuda" or torch.version.cuda is None:
        return 0, 0
    return torch.cuda.get_device_capability(device)


def _align(bias: Tensor) -> Tensor:
    """The same numbers, each row at a multiple of some bytes: the operator loads whole vectors of them."""
    length = bias.shape[-1]
    room = bias.new_zeros(*bias.shape[:-1], -(-length // _BIAS_ALIGNMENT) * _BIAS_ALIGNMENT)
    room[..., :length] = bias
    return room[..., :length]
