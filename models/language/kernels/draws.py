"""Mask, log-normaliser and draw over a vocabulary that stays on the device: one pass over the logits.

The law is that of `draws.kernels`, and so are the blocks: one uniform number gives the same token in both, unless it is
within rounding of a boundary. Exponentials are float32, sums float64. What comes back to the host are a few numbers for
each row and context, in one transfer.

No index follows from a logit: a context whose logits hold NaN or +inf has no law, and draws -1.
"""

# What stands in a kernel is Triton's language, whose types pyright does not know.
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from feynkac.base.masks import TokenMask
from feynkac.models.language.draws.kernels import BLOCK


@triton.jit
def _read_block(logits, mask, scale, v, n_tokens, HAS_MASK: tl.constexpr):
    """The scaled logits of tokens `v`, -inf behind the last, and the same with -inf for what the mask forbids.

    In the second, NaN and +inf are -inf, too.
    """
    here = v < n_tokens
    x = tl.load(logits + v, mask=here, other=float("-inf")) * scale
    if HAS_MASK:
        allowed = (tl.load(mask + (v >> 5), mask=here, other=0) >> (v & 31)) & 1
        return x, tl.where((allowed != 0) & (x < float("inf")), x, float("-inf"))
    else:
        return x, tl.where(x < float("inf"), x, float("-inf"))


@triton.jit
def _sum_exponentials(x):
    """The largest of some float32, and the sum of exp(x - largest) in float64; -inf and 0 where all are -inf."""
    top = tl.max(x, 0)
    shift = tl.where(top == float("-inf"), 0.0, top)
    return top, tl.sum(tl.exp(x - shift).to(tl.float64), 0)


@triton.jit
def _sum_blocks(
    logits, mask, scale, peaks, sums, allowed_peaks, allowed_sums, n_tokens, logits_row, mask_row,
    HAS_MASK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Peak and sum of one block of one context, of all tokens and of the allowed ones; the sum is NaN without a law."""
    u, b = tl.program_id(0).to(tl.int64), tl.program_id(1)
    v = b * BLOCK + tl.arange(0, BLOCK)
    x, within = _read_block(logits + u * logits_row, mask + u * mask_row, tl.load(scale + u), v, n_tokens, HAS_MASK)
    sound = x < float("inf")  # False of NaN, which a maximum may pass over
    top, total = _sum_exponentials(tl.where(sound, x, float("-inf")))
    peak, allowed = _sum_exponentials(within)
    unsound = tl.sum(tl.where(sound, 0, 1), 0)
    place = u * tl.num_programs(1) + b
    tl.store(peaks + place, top)
    tl.store(sums + place, tl.where(unsound > 0, float("nan"), total))
    tl.store(allowed_peaks + place, peak)
    tl.store(allowed_sums + place, allowed)


@triton.jit
def _add_blocks(peaks, sums, allowed_peaks, allowed_sums, blocks, out, n_blocks, BLOCKS: tl.constexpr):
    """The log-totals of one context; `blocks` are the allowed sums relative to the largest allowed logit."""
    u, n = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    b = tl.arange(0, BLOCKS)
    place, here = u * n_blocks + b, b < n_blocks
    peak = tl.load(peaks + place, mask=here, other=float("-inf"))
    top = tl.max(peak, 0)
    some = top > float("-inf")
    ratio = tl.exp((peak - tl.where(some, top, 0.0)).to(tl.float64))
    total = tl.sum(tl.load(sums + place, mask=here, other=0.0) * ratio, 0)
    lawful = some & (total < float("inf"))  # False of NaN
    log_total = top.to(tl.float64) + tl.log(tl.where(lawful, total, 1.0))
    tl.store(out + u, tl.where(lawful, log_total, float("nan")))

    peak = tl.load(allowed_peaks + place, mask=here, other=float("-inf"))
    top = tl.max(peak, 0)
    some = lawful & (top > float("-inf"))
    ratio = tl.exp((peak - tl.where(some, top, 0.0)).to(tl.float64))
    block = tl.where(some, tl.load(allowed_sums + place, mask=here, other=0.0) * ratio, 0.0)
    tl.store(blocks + place, block, mask=here)
    log_allowed = top.to(tl.float64) + tl.log(tl.where(some, tl.sum(block, 0), 1.0))
    tl.store(out + n + u, tl.where(some, log_allowed, float("-inf")))


@triton.jit
def _locate(
    logits, mask, scale, allowed_peaks, allowed_sums, blocks, context, uniforms, out,
    n_tokens, n_blocks, n_contexts, logits_row, mask_row, pinned,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """The token at which the cumulated probability of the allowed tokens passes a uniform number, and its log p."""
    i = tl.program_id(0)
    c = tl.load(context + i)
    b = tl.arange(0, BLOCKS)
    block = tl.load(blocks + c * n_blocks + b, mask=b < n_blocks, other=0.0)
    point = tl.load(uniforms + i) * tl.sum(block, 0)
    first = tl.min(tl.where((block > 0.0) & (tl.cumsum(block, 0) > point), b, BLOCKS), 0)
    last = tl.max(tl.where(block > 0.0, b, -1), 0)
    found = tl.maximum(tl.where(first < BLOCKS, first, last), 0)  # rounding may leave the point past the end

    # Within the block in units of its own peak: relative to the largest of all, its tokens might underflow one by one.
    share = tl.sum(tl.where(b == found, block, 0.0), 0)
    point = (point - tl.sum(tl.where(b < found, block, 0.0), 0)) / tl.where(share > 0.0, share, 1.0)
    point = point * tl.load(allowed_sums + c * n_blocks + found)
    v = found * BLOCK + tl.arange(0, BLOCK)
    factor = tl.load(scale + c)
    x, within = _read_block(logits + c * logits_row, mask + c * mask_row, factor, v, n_tokens, True)
    peak = tl.load(allowed_peaks + c * n_blocks + found)
    p = tl.exp(within - tl.where(peak == float("-inf"), 0.0, peak)).to(tl.float64)
    hit = tl.min(tl.where((p > 0.0) & (tl.cumsum(p, 0) > point), v, n_tokens), 0)
    end = tl.max(tl.where(p > 0.0, v, -1), 0)
    token = tl.where(hit < n_tokens, hit, end)
    token = tl.where(last < 0, -1, token)
    token = tl.where((i == 0) & (pinned >= 0), pinned, token)

    x = tl.load(logits + c * logits_row + tl.maximum(token, 0)).to(tl.float64)
    log_p = x * factor.to(tl.float64) - tl.load(out + c)
    tl.store(out + 2 * n_contexts + i, token.to(tl.float64))
    tl.store(out + 2 * n_contexts + tl.num_programs(0) + i, tl.where(token < 0, float("-inf"), log_p))


class DeviceLaw(NamedTuple):
    """The next-token law of U contexts under their masks, on the device: B blocks of tokens each."""

    logits: Tensor
    """(U, V) float32"""
    mask: Tensor
    """(U, ceil(V / 32)) int32; of no mask, anything."""
    scale: Tensor
    """(U,)"""
    peaks: Tensor
    """(U, B) the largest scaled logit of the allowed tokens of each block."""
    sums: Tensor
    """(U, B) float64, sums of exp(scaled logit - peak) over the same tokens."""
    blocks: Tensor
    """(U, B) float64, the same relative to the context's largest allowed logit."""


class DeviceDraw(NamedTuple):
    """What comes back of a draw, float64 but for the tokens."""

    log_total: NDArray[np.float64]
    """(U,) NaN where there is no law."""
    log_allowed: NDArray[np.float64]
    """(U,)"""
    tokens: NDArray[np.int64]
    """(R,) -1 where the mask allows none."""
    log_prob: NDArray[np.float64]
    """(R,)"""


def sum_up(
    logits: Tensor, mask: TokenMask | None, scale: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(U,) log-sums of exp(logit / temperature) over all tokens and over those of each mask, or of all without one."""
    out = logits.new_empty(2 * len(logits), dtype=torch.float64)
    _normalise(logits, mask, scale, out)
    log_total, log_allowed = out.cpu().numpy().reshape(2, -1)
    return log_total, log_allowed


def draw(
    logits: Tensor,
    mask: TokenMask,
    scale: NDArray[np.float32],
    context: NDArray[np.int64],
    uniforms: NDArray[Any],
    pinned: int | None = None,
) -> DeviceDraw:
    """Draw for each row from the law of its context (see `draws.next_token.draw_tokens`); one transfer to the host."""
    n, rows = len(logits), len(context)
    out = logits.new_empty(2 * n + 2 * rows, dtype=torch.float64)
    law = _normalise(logits, mask, scale, out)
    n_blocks = law.blocks.shape[1]
    launch: Any = _locate[(rows,)]
    launch(
        *law, _upload(context, logits), _upload(np.asarray(uniforms, np.float64), logits), out,
        logits.shape[1], n_blocks, n, law.logits.stride(0), law.mask.stride(0), -1 if pinned is None else pinned,
        BLOCK=BLOCK, BLOCKS=triton.next_power_of_2(n_blocks),
    )  # fmt: skip
    found = out.cpu().numpy()
    return DeviceDraw(found[:n], found[n : 2 * n], found[2 * n : 2 * n + rows].astype(np.int64), found[2 * n + rows :])


def _normalise(logits: Tensor, mask: TokenMask | None, scale: NDArray[np.float32], out: Tensor) -> DeviceLaw:
    """The law; `out` begins with the log-totals afterwards."""
    n, n_tokens = logits.shape
    n_blocks = triton.cdiv(n_tokens, BLOCK)
    logits, factor = logits.contiguous(), _upload(scale, logits)
    bits = factor[:, None] if mask is None else _upload(np.ascontiguousarray(mask).view(np.int32), logits)
    peaks, allowed_peaks = logits.new_empty(2, n, n_blocks)
    sums, allowed_sums, blocks = logits.new_empty(3, n, n_blocks, dtype=torch.float64)
    launch: Any = _sum_blocks[(n, n_blocks)]
    launch(
        logits, bits, factor, peaks, sums, allowed_peaks, allowed_sums, n_tokens, logits.stride(0), bits.stride(0),
        HAS_MASK=mask is not None, BLOCK=BLOCK,
    )  # fmt: skip
    launch = _add_blocks[(n,)]
    launch(
        peaks, sums, allowed_peaks, allowed_sums, blocks, out, n_blocks, BLOCKS=triton.next_power_of_2(n_blocks)
    )  # fmt: skip
    return DeviceLaw(logits, bits, factor, allowed_peaks, allowed_sums, blocks)


def _upload(array: NDArray[Any], logits: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(logits.device, non_blocking=True)
