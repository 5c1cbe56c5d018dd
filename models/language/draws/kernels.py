"""Mask, log-normaliser and draw over a vocabulary, in one pass over the logits.

A step of N particles reads U x V logits, U <= N distinct contexts. Softmax followed by a multinomial draw would go
over them eight times; here each context is read twice (maximum, then sum), and each particle looks at one block.

Threads may call at once, also where numba has only its "workqueue" layer of threads, which aborts the process if two
are in it: then one kernel runs at a time. A process that was forked off has none of the threads of its parent, and
numba's would wait for them for ever: there, where indices are checked (NUMBA_BOUNDSCHECK, of which threads tell
nothing), and where numba has one thread only, for which a busy machine would be waited for, the same loops run on the
caller's thread.

No index follows from a logit: a context whose logits hold NaN or +inf has no law, and draws -1.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import config, njit, prange, threading_layer  # pyright: ignore[reportPrivateImportUsage]
from numpy.typing import NDArray

from feynkac.base.errors import ModelError
from feynkac.base.masks import TokenMask, words
from feynkac.models.language.forks import keep_threads

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
    """(U,) log of the sum of exp(logit / temperature) over the whole vocabulary; NaN where there is no law."""
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
    """The largest logit of all and of the allowed, both scaled; NaN and -inf where some logit is NaN or +inf."""
    top = top_allowed = np.float32(-np.inf)
    sound = True
    for v in range(len(logits)):
        x = logits[v]
        sound &= x < np.inf  # False of NaN, which a maximum may pass over
        top = max(top, x)
        allowed = (mask[v >> 5] >> np.uint32(v & 31)) & np.uint32(1)
        top_allowed = max(top_allowed, x if allowed else np.float32(-np.inf))
    if not (sound and top > -np.inf):
        return np.float32(np.nan), np.float32(-np.inf)
    return top * scale, top_allowed * scale


@njit(cache=True)
def add_up(values):
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
def write_exponentials(logits, peak, scale, out):
    for i in range(len(logits)):
        # Above the peak are tokens that the mask forbids: an infinity would not be masked away, as inf * 0 is NaN.
        out[i] = _exp(min(logits[i] * scale - peak, np.float32(0.0)))


@njit(cache=True)
def apply_mask(mask, values):
    for i in range(len(values)):
        values[i] *= np.float32((mask[i >> 5] >> np.uint32(i & 31)) & np.uint32(1))


@njit(cache=True)
def _normalise_one(logits, mask, scale, blocks):
    """The log-totals of one context, of all tokens and of the allowed ones, and the peak of these."""
    top, peak = _peaks(logits, mask, scale)
    if np.isnan(top):
        return np.float64(np.nan), -np.inf, peak
    buffer = np.empty(BLOCK, np.float32)
    total = allowed = 0.0
    # exp(logit - top) of an allowed token may underflow; then it is taken anew, relative to the allowed peak.
    shared = top - peak < np.float32(40.0)
    shift = np.exp(np.float64(top) - np.float64(peak)) if shared else 0.0
    for b in range(len(blocks)):
        low, high = b * BLOCK, min((b + 1) * BLOCK, len(logits))
        values = buffer[: high - low]
        write_exponentials(logits[low:high], top, scale, values)
        total += add_up(values)
        if peak == -np.inf:
            continue
        if not shared:
            write_exponentials(logits[low:high], peak, scale, values)
        apply_mask(mask[b * _WORDS :], values)
        blocks[b] = add_up(values) * (shift if shared else 1.0)
        allowed += blocks[b]
    log_allowed = np.float64(peak) + np.log(allowed) if allowed > 0.0 else -np.inf
    return np.float64(top) + np.log(total), log_allowed, peak


@njit(parallel=True, cache=True)
def _normalise(logits, mask, scale, log_total, log_allowed, peak, blocks):
    for u in prange(len(logits)):
        log_total[u], log_allowed[u], peak[u] = _normalise_one(logits[u], mask[u], scale[u], blocks[u])


@njit(cache=True)
def _normalise_alone(logits, mask, scale, log_total, log_allowed, peak, blocks):
    for u in range(len(logits)):
        log_total[u], log_allowed[u], peak[u] = _normalise_one(logits[u], mask[u], scale[u], blocks[u])


@njit(cache=True)
def locate(logits, mask, scale, peak, blocks, u):
    """The token at which the cumulated probability of the allowed tokens passes the uniform `u`; -1 for none."""
    remaining = u * blocks.sum()
    block = last_block = -1
    for b in range(len(blocks)):
        if blocks[b] > 0.0:
            last_block = b
            if remaining < blocks[b]:
                block = b
                break
            remaining -= blocks[b]
    if last_block < 0:
        return -1
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
        out[i] = locate(logits[c], mask[c], scale[c], peak[c], blocks[c], uniforms[i])


@njit(cache=True)
def _draw_alone(logits, mask, scale, peak, blocks, context, uniforms, out):
    for i in range(len(context)):
        c = context[i]
        out[i] = locate(logits[c], mask[c], scale[c], peak[c], blocks[c], uniforms[i])


FEW = 1 << 13
"""Numbers that one thread has gone through before others have woken; on a busy machine these wake late."""
_LAYERS_FOR_THREADS = ("omp", "tbb")
_one_kernel = threading.Lock()
_layer: str | None = None
"""The threading layer of numba; not known before the first parallel kernel has run."""
_owner: int | None = None
"""The process that started the threads of numba."""


def run_kernel(parallel: Callable[..., None], alone: Callable[..., None], numbers: int, *args: Any) -> None:
    """Run the kernel on all threads, or `alone` for few `numbers`, and where this process may not use them."""
    global _layer, _owner
    alien = _owner is not None and _owner != os.getpid()
    if numbers <= FEW or alien or config.BOUNDSCHECK or config.NUMBA_NUM_THREADS == 1:  # pyright: ignore[reportAttributeAccessIssue]
        alone(*args)
    elif _layer in _LAYERS_FOR_THREADS:
        parallel(*args)
    else:
        with _one_kernel:
            _owner = os.getpid()
            with keep_threads():
                parallel(*args)
            _layer = threading_layer()


def check_shapes(shape: tuple[int, ...], mask: TokenMask, scale: NDArray[np.float32]) -> None:
    """Raises ModelError unless masks and scales are those of logits of this shape."""
    n, n_tokens = shape
    if mask.shape != (n, words(n_tokens)) or scale.shape != (n,):
        raise ModelError(
            f"logits of shape {tuple(shape)} under masks of shape {mask.shape}; a model gives as many logits as its "
            "vocabulary has tokens"
        )


def check_contexts(context: NDArray[np.int64], n: int) -> None:
    """Raises ModelError for rows of contexts that are none of `n`."""
    if len(context) and not (context.min() >= 0 and context.max() < n):
        raise ModelError(f"contexts {context.min()} to {context.max()} of {n}")


def normalise(logits: NDArray[np.float32], mask: TokenMask, scale: NDArray[np.float32]) -> NextTokenLaw:
    """The next-token law of U contexts.

    `logits` (U, V) float32, `mask` (U, ceil(V / 32)), `scale` (U,) float32, one over the temperature. Raises ModelError
    for other shapes, which compiled code would not notice.
    """
    check_shapes(logits.shape, mask, scale)
    n, n_tokens = logits.shape
    blocks = np.zeros((n, -(-n_tokens // BLOCK)))
    law = NextTokenLaw(np.empty(n), np.empty(n), np.empty(n, np.float32), blocks)
    run_kernel(_normalise, _normalise_alone, logits.size, logits, mask, scale, *law)
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
    check_contexts(context, len(logits))
    tokens = np.empty(len(context), np.int64)
    numbers = len(context) * min(BLOCK, logits.shape[1])
    run_kernel(_draw, _draw_alone, numbers, logits, mask, scale, law.peak, law.blocks, context, uniforms, tokens)
    return tokens
