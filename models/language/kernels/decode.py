"""Attention of each row's new tokens over its own tokens in a pool of slots, begun from what the prefix gave.

Online softmax (Milakov and Gimelshein 2018) needs of the keys seen so far only a normalised sum of values and the
log mass of its scores. Attention over the shared prefix is just that: the kernel takes it as its first state, and no
merge is needed. Long texts of few rows are cut in stretches, which are merged by a second kernel ("flash decoding").

Rows have lengths of their own, read on the device, and stand in slots of the pool: nothing is gathered, no mask is
made. The queries of one key head, G = group x new tokens (new tokens innermost), are one tile.
"""

# What stands in a kernel is Triton's language, whose types pyright does not know.
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

_TILE_BYTES = 1 << 14
"""Of keys, and of values, that are loaded at once."""
_LEAST_SPLIT = 128
"""Tokens below which a text is not cut."""
_MOST_SPLITS = 32
"""Stretches that are merged at once."""
_PROGRAMS = 264
"""Programs that fill a device: two for each of the 132 processors of an H100."""
INTERPRETED: bool = knobs.runtime.interpret


@triton.jit
def _load_rows(base, at, here, size, SIZE: tl.constexpr):
    """(len(at), SIZE) the rows that begin at `base` + `at`; 0 behind `size` and where `here` is False."""
    d = tl.arange(0, SIZE)
    return tl.load(base + at[:, None] + d[None, :], mask=here[:, None] & (d < size)[None, :], other=0.0)


@triton.jit
def _attend_stretch(
    query, keys, values, slots, starts, prefix, prefix_mass, out, out_mass,
    scale, n_new, group, stretch, size, value_size,
    query_row, query_head, query_one, key_slot, key_head, key_time, value_slot, value_head, value_time,
    prefix_row, prefix_head, prefix_one, mass_row, mass_head, mass_one,
    HAS_SLOTS: tl.constexpr, WIDE: tl.constexpr, N_TILES: tl.constexpr,
    TILE: tl.constexpr, TIME: tl.constexpr, SIZE: tl.constexpr, VALUE_SIZE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head, split = tl.program_id(1) // N_TILES, tl.program_id(2)
    one = (tl.program_id(1) % N_TILES) * TILE + tl.arange(0, TILE)
    slot = tl.load(slots + row).to(tl.int64) if HAS_SLOTS else row
    start = tl.load(starts + row)
    here = one < group
    q = _load_rows(query, row * query_row + head * query_head + one * query_one, here, size, SIZE)
    if WIDE:
        q = q.to(tl.float32)

    begins = one < tl.where(split == 0, group, 0)
    at = row * mass_row + head * mass_head + one * mass_one
    peak = tl.load(prefix_mass + at, mask=begins, other=float("-inf"))
    total = tl.where(begins, 1.0, 0.0)
    at = row * prefix_row + head * prefix_head + one * prefix_one
    sums = _load_rows(prefix, at, begins, value_size, VALUE_SIZE).to(tl.float32)

    visible = start + one % n_new + 1
    end = tl.minimum(start + n_new, (split + 1) * stretch)
    for first in range(split * stretch, end, TIME):
        time = (first + tl.arange(0, TIME)).to(tl.int64)
        key, value = time * key_time + head * key_head, time * value_time + head * value_head
        k = _load_rows(keys, key + slot * key_slot, time < end, size, SIZE)
        v = _load_rows(values, value + slot * value_slot, time < end, value_size, VALUE_SIZE)
        if WIDE:
            k, v = k.to(tl.float32), v.to(tl.float32)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where((time < end)[None, :] & (time[None, :] < visible[:, None]), scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen yet: -inf minus itself would be NaN
        p = tl.exp(scores - shift[:, None])
        shrink = tl.exp(peak - shift)
        total = total * shrink + tl.sum(p, 1)
        sums = sums * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        peak = higher

    seen = total > 0.0
    total = tl.where(seen, total, 1.0)
    place = ((split.to(tl.int64) * tl.num_programs(0) + row) * (tl.num_programs(1) // N_TILES) + head) * group + one
    e = tl.arange(0, VALUE_SIZE)
    within = here[:, None] & (e < value_size)[None, :]
    tl.store(out + place[:, None] * value_size + e[None, :], sums / total[:, None], mask=within)
    tl.store(out_mass + place, tl.where(seen, peak + tl.log(total), float("-inf")), mask=here)


@triton.jit
def _merge_stretches(
    parts, masses, out, n, n_splits, value_size, SPLITS: tl.constexpr, VALUE_SIZE: tl.constexpr
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64)
    split, e = tl.arange(0, SPLITS), tl.arange(0, VALUE_SIZE)
    mass = tl.load(masses + split * n + place, mask=split < n_splits, other=float("-inf"))
    share = tl.exp(mass - tl.max(mass, 0))  # the first stretch begins with a prefix, so that one mass is finite
    at = parts + (split[:, None] * n + place) * value_size + e[None, :]
    part = tl.load(at, mask=(split < n_splits)[:, None] & (e < value_size)[None, :], other=0.0)
    merged = tl.sum(part * share[:, None], 0) / tl.sum(share, 0)
    tl.store(out + place * value_size + e, merged, mask=e < value_size)


def attend_pool(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    where: tuple[Tensor | None, Tensor, int],
    before: tuple[Tensor, Tensor],
    scale: float,
    longest: int,
) -> Tensor:
    """(F, Hkv, G, E) float32 attention over a prefix and each row's own tokens.

    `query` (F, Hkv, G, D); `keys` (S, Hkv, T, D) and `values` (S, Hkv, T, E), the pool. `where`: the slot of each row,
    (F,), or None where row r stands in slot r; its tokens before the new ones, (F,) int32; and the number of new ones,
    which are in the pool, too. `before`: attention over the prefix, (F, Hkv, G, E), and its log mass, (F, Hkv, G)
    float32, in nats. `longest` bounds the tokens of any row.
    """
    (slots, starts, n_new), (prefix, prefix_mass) = where, before
    rows, heads, group, size = query.shape
    value_size = values.shape[-1]
    query, prefix = _with_unit_stride(query), _with_unit_stride(prefix)
    tile = max(16, min(64, triton.next_power_of_2(group)))
    n_tiles = triton.cdiv(group, tile)
    padded, padded_value = (max(16, triton.next_power_of_2(x)) for x in (size, value_size))
    wide = query.dtype != keys.dtype or keys.dtype == torch.float32 or (INTERPRETED and keys.dtype == torch.bfloat16)
    time = max(16, min(64, _TILE_BYTES // (max(padded, padded_value) * (4 if wide else 2))))
    stretch, n_splits = _cut(rows * heads * n_tiles, longest, time)
    out = query.new_empty(n_splits, rows, heads, group, value_size, dtype=torch.float32)
    mass = query.new_empty(n_splits, rows, heads, group, dtype=torch.float32)
    launch: Any = _attend_stretch[(rows, heads * n_tiles, n_splits)]
    launch(
        query, keys, values, starts if slots is None else slots, starts, prefix, prefix_mass, out, mass,
        scale, n_new, group, stretch, size, value_size,
        *query.stride()[:3], *keys.stride()[:3], *values.stride()[:3], *prefix.stride()[:3], *prefix_mass.stride(),
        HAS_SLOTS=slots is not None, WIDE=wide, N_TILES=n_tiles,
        TILE=tile, TIME=time, SIZE=padded, VALUE_SIZE=padded_value, num_stages=2,
    )  # fmt: skip
    if n_splits == 1:
        return out[0]
    merged, n = torch.empty_like(out[0]), rows * heads * group
    launch = _merge_stretches[(n,)]
    launch(out, mass, merged, n, n_splits, value_size,
           SPLITS=triton.next_power_of_2(n_splits), VALUE_SIZE=padded_value)  # fmt: skip
    return merged


def _cut(programs: int, longest: int, time: int) -> tuple[int, int]:
    """Tokens of a stretch, a multiple of `time`, and how many stretches there are."""
    wanted = min(triton.cdiv(_PROGRAMS, programs), max(1, longest // _LEAST_SPLIT), _MOST_SPLITS)
    stretch = triton.cdiv(triton.cdiv(longest, wanted), time) * time
    return stretch, triton.cdiv(longest, stretch)


def _with_unit_stride(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
