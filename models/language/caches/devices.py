"""Attention of many rows over a shared prefix and over tokens of their own on a GPU: no copies, no scores in memory.

The prefix is attended to by an operator of torch that tells its log mass. Own tokens follow in one Triton kernel, which
begins with what the prefix gave and reads each row in its slot of the pool; where that cannot run, they are attended to
like the prefix, under a mask, and both are merged. Shapes are those of `caches.attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from feynkac.models.language.caches.attention import attend_prefixes, repeat_mask, spread_bias
from feynkac.models.language.caches.operators import HALVES, attend, find_capability
from feynkac.models.language.kernels.availability import has_kernels

if TYPE_CHECKING:
    from feynkac.models.language.caches.store import SharedCache

_LARGEST_HEAD = 256
"""Elements of a head of which the kernel holds tiles."""


def reads_pool(stores: Sequence[Tensor]) -> bool:
    """Whether the kernel serves these keys and values, (slots, Hkv, time, D) each."""
    return all(
        x.dtype in (*HALVES, torch.float32)
        and x.shape[-1] <= _LARGEST_HEAD
        and find_capability(x.device) >= (8, 0)
        and has_kernels(x.device)
        for x in stores
    )


def merge_on_device(query: Tensor, key: Tensor, value: Tensor, scaling: float, particles: SharedCache) -> Tensor:
    """(F, Hkv, G, D) float32 attention of `query` (F, Hkv, G, D) over prefix and own tokens.

    `key`, `value`: (F, Hkv, L, D) of the rows' own tokens, or the pool that the step reads (see `shared.Pass`).
    """

    def attend_one(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        return _attend_prefix(query, key, value, bias, scaling)

    step = particles.step
    prefix, prefix_mass = attend_prefixes(query, particles, attend_one)
    if step.starts is not None:
        from feynkac.models.language.kernels.decode import attend_pool

        rows = step.slots, step.starts, step.n_new
        with torch.cuda.device_of(query):  # Triton launches on the current device, wherever its tensors are
            return attend_pool(query, key, value, rows, (prefix, prefix_mass), scaling, step.length)
    own, own_mass = attend(query, key, value, repeat_mask(step.mask, query), scaling)
    return torch.lerp(own.float(), prefix.float(), torch.sigmoid(prefix_mass - own_mass)[..., None])


def _attend_prefix(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    """(F, Hkv, G, D) attention of rows that share `key` and `value` (1, Hkv, P, D), and its (F, Hkv, G) log mass.

    The queries of all rows to one key head are one matrix, unless `bias` (Hq, P) is given: then the keys are broadcast.
    """
    rows, heads, group, size = query.shape
    if bias is not None:
        key, value = key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1)
        return attend(query, key, value, spread_bias(bias, query)[None], scaling)
    packed = query.transpose(0, 1).reshape(1, heads, rows * group, size)
    out, mass = attend(packed, key, value, None, scaling)
    return out.view(heads, rows, group, -1).transpose(0, 1), mass.view(heads, rows, group).transpose(0, 1)
