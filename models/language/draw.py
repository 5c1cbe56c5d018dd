"""Mask, log-normaliser and draw over a vocabulary, in one pass over the logits.

A step of N particles reads U x V logits, U <= N distinct contexts. Softmax followed by a multinomial draw would go
over them eight times; here each context is read twice (maximum, then sum), and each particle looks at one block.

Threads may call at once, also where numba has only its "workqueue" layer of threads, which aborts the process if two
are in it: then one kernel runs at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange, threading_layer  # pyright: ignore[reportPrivateImportUsage]
from numpy.typing import NDArray

from feynkac.base.masks import TokenMask

BLOCK = 1024
"""Tokens whose probabilities are summed together; a draw finds its block first, then its token in the block."""
_WORDS = BLOCK // 32

_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
# Minimax polynomial of exp on [-ln 2 / 2, ln 2 / 2] (Cephes, expf): relative error 2e-7.
_C0, _C1, _C2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_C3, _C4, _C5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
_SMALLEST = np.float32(-87.0)


class NextTokenLaw(NamedTuple):
    """The next-token law of U contexts under their masks."""

    log_total: NDArray[np.float64]
    """(U,) log of the sum of exp(logit / temperature) over the whole vocabulary."""
    log_allowed: NDArray[np.float64]
    """(U,) the same over the allowed tokens; -inf where none is."""
    peak: NDArray[np.float32]
    """(U,) the largest allowed logit / temperature."""
    blocks: NDArray[np.float64]
    """(U, B) sums of exp(logit / temperature - peak) over the allowed tokens of each block."""

    @property
    def log_mass(self) -> NDArray[np.float64]:
        """(U,) log of the probability that the mask leaves, in nats."""
        return self.log_allowed - self.log_total


@njit(inline="always")
def _exp(x):  # numba has no vectorised exp of its own; LLVM vectorises this one
    underflow = x < _SMALLEST
    x = max(x, _SMALLEST)
    n = np.floor(x * _LOG2E + np.float32(0.5))
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    y = _C0
    y = y * r + _C1
    y = y * r + _C2
    y = y * r + _C3
    y = y * r + _C4
    y = y * r + _C5
    y = y * r * r + r + np.float32(1.0)
    y *= np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(0.0) if underflow else y


@njit(cache=True)
def _peaks(logits, mask, scale):
    """The largest logit of all and of the allowed, both scaled."""
    top = top_allowed = np.float32(-np.inf)
    for v in range(len(logits)):
        x = logits[v]
        top = max(top, x)
        allowed = (mask[v >> 5] >> np.uint32(v & 31)) & np.uint32(1)
        top_allowed = max(top_allowed, x if allowed else np.float32(-np.inf))
    return top * scale, top_allowed * scale


@njit(cache=True)
def _sum(values):
    """Sum in float64 with eight accumulators, which hide the latency of the additions."""
    a = np.zeros(8)
    whole = len(values) // 8 * 8
    for i in range(0, whole, 8):
        for j in range(8):
            a[j] += values[i + j]
    for i in range(whole, len(values)):
        a[0] += values[i]
    return a.sum()


@njit(cache=True)
def _exponentials(logits, peak, scale, out):
    for i in range(len(logits)):
        out[i] = _exp(logits[i] * scale - peak)


@njit(cache=True)
def _apply(mask, values):
    for i in range(len(values)):
        values[i] *= np.float32((mask[i >> 5] >> np.uint32(i & 31)) & np.uint32(1))


@njit(parallel=True, cache=True)
def _normalise(logits, mask, scale, log_total, log_allowed, peak, blocks):
    n_tokens = logits.shape[1]
    for u in prange(len(logits)):
        top, peak[u] = _peaks(logits[u], mask[u], scale[u])
        buffer = np.empty(BLOCK, np.float32)
        total = allowed = 0.0
        # exp(logit - top) of an allowed token may underflow; then it is taken anew, relative to the allowed peak.
        shared = top - peak[u] < np.float32(40.0)
        shift = np.exp(np.float64(top) - np.float64(peak[u])) if shared else 0.0
        for b in range(blocks.shape[1]):
            low, high = b * BLOCK, min((b + 1) * BLOCK, n_tokens)
            values = buffer[: high - low]
            _exponentials(logits[u, low:high], top, scale[u], values)
            total += _sum(values)
            if peak[u] == -np.inf:
                continue
            if not shared:
                _exponentials(logits[u, low:high], peak[u], scale[u], values)
            _apply(mask[u, b * _WORDS :], values)
            blocks[u, b] = _sum(values) * (shift if shared else 1.0)
            allowed += blocks[u, b]
        log_total[u] = np.float64(top) + np.log(total)
        log_allowed[u] = np.float64(peak[u]) + np.log(allowed) if allowed > 0.0 else -np.inf


@njit(cache=True)
def _locate(logits, mask, scale, peak, blocks, u):
    """The token at which the cumulated probability of the allowed tokens passes the uniform `u`."""
    remaining = u * blocks.sum()
    block = last_block = -1
    for b in range(len(blocks)):
        if blocks[b] > 0.0:
            last_block = b
            if remaining < blocks[b]:
                block = b
                break
            remaining -= blocks[b]
    if block < 0:  # rounding left the uniform past the end
        block, remaining = last_block, np.inf
    chosen = -1
    for v in range(block * BLOCK, min((block + 1) * BLOCK, len(logits))):
        if (mask[v >> 5] >> np.uint32(v & 31)) & np.uint32(1):
            p = np.float64(_exp(logits[v] * scale - peak))
            if p > 0.0 or chosen < 0:
                chosen = v
            if remaining < p:
                break
            remaining -= p
    return chosen


@njit(parallel=True, cache=True)
def _draw(logits, mask, scale, peak, blocks, context, uniforms, out):
    for i in prange(len(context)):
        c = context[i]
        out[i] = _locate(logits[c], mask[c], scale[c], peak[c], blocks[c], uniforms[i]) if peak[c] > -np.inf else -1


_LAYERS_FOR_THREADS = ("omp", "tbb")
_one_kernel = threading.Lock()
_layer: str | None = None
"""The threading layer of numba; not known before the first parallel kernel has run."""


def _run_parallel(kernel: Callable[..., None], *args: Any) -> None:
    global _layer
    if _layer in _LAYERS_FOR_THREADS:
        kernel(*args)
        return
    with _one_kernel:
        kernel(*args)
        _layer = threading_layer()


def normalise(logits: NDArray[np.float32], mask: TokenMask, scale: NDArray[np.float32]) -> NextTokenLaw:
    """The next-token law of U contexts.

    `logits` (U, V) float32, `mask` (U, ceil(V / 32)), `scale` (U,) float32, one over the temperature.
    """
    n, n_tokens = logits.shape
    blocks = np.zeros((n, -(-n_tokens // BLOCK)))
    law = NextTokenLaw(np.empty(n), np.empty(n), np.empty(n, np.float32), blocks)
    _run_parallel(_normalise, logits, mask, scale, *law)
    return law


def draw(
    logits: NDArray[np.float32],
    mask: TokenMask,
    scale: NDArray[np.float32],
    law: NextTokenLaw,
    context: NDArray[np.int64],
    uniforms: NDArray[Any],
) -> NDArray[np.int64]:
    """(R,) tokens by inversion of each row's law; -1 where its context allows none.

    `context` (R,) the row of `logits` that each particle draws from, `uniforms` (R,) in [0, 1).
    """
    tokens = np.empty(len(context), np.int64)
    _run_parallel(_draw, logits, mask, scale, law.peak, law.blocks, context, uniforms, tokens)
    return tokens
