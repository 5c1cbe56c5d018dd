"""Draws without replacement: each row has an urn with the tokens of its law, from which rejected ones are taken out.

Nothing is sorted. A draw finds its block by the block sums and its token in the block, as `draw` does; taking a token
out clears its bit and sums its block anew, so that a row costs some thousand operations, whatever the vocabulary.
What is left is always summed and never subtracted: a token of mass 1e-9 keeps all its digits when the rest is gone.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from feynkac.base.contract import Rows
from feynkac.base.masks import TokenMask
from feynkac.models.language.draws.kernels import (
    BLOCK,
    NextTokenLaw,
    add_up,
    apply_mask,
    locate,
    run_kernel,
    write_exponentials,
)

_WORDS = BLOCK // 32
_FEW = 8
_FAINT = 1e-20
"""Of the largest exponential: where less is left, all is summed anew, relative to the largest that is left."""


class Urn(Protocol):
    """R urns, each with the tokens of the law of one row."""

    log_left: NDArray[np.float64]
    """(R,) nats of the share of the law that has not been taken out; -inf of nothing."""

    def draw(self, at: Rows, uniforms: NDArray[Any]) -> NDArray[np.int64]:
        """(A,) a token from what is left in each of the urns `at`, which stays in it; -1 from an empty one."""
        ...

    def take_out(self, at: Rows, tokens: NDArray[np.int64]) -> None:
        """Take one token out of each of the urns `at`, all different."""
        ...


class FastUrn:
    """Urns over float32 logits on the CPU; sums are those of `draw.normalise`."""

    def __init__(
        self,
        logits: NDArray[np.float32],
        mask: TokenMask,
        scale: NDArray[np.float32],
        law: NextTokenLaw,
        context: NDArray[np.int64],
    ) -> None:
        self._logits, self._scale, self._context = logits, scale, context
        self._mask, self._blocks, self._peak = mask[context], law.blocks[context], law.peak[context]
        self._log_whole = law.log_allowed[context]
        self.log_left = np.where(self._log_whole > -np.inf, 0.0, -np.inf)

    def draw(self, at: Rows, uniforms: NDArray[Any]) -> NDArray[np.int64]:
        """See `Urn.draw`."""
        tokens = np.empty(len(at), np.int64)
        _run(_draw, _draw_alone, *self._tables, at, uniforms, tokens)
        return tokens

    def take_out(self, at: Rows, tokens: NDArray[np.int64]) -> None:
        """See `Urn.take_out`."""
        _run(_take_out, _take_out_alone, *self._tables, at, tokens, self._log_whole, self.log_left)

    @property
    def _tables(self) -> tuple[Any, ...]:
        return self._logits, self._mask, self._scale, self._peak, self._blocks, self._context


def _run(parallel: Any, alone: Any, *args: Any) -> None:
    """Run a kernel; for a few rows, as there are when most have their tokens, threads take longer to wake."""
    at = args[6]
    if len(at) <= _FEW:
        alone(*args)
    else:
        run_kernel(parallel, alone, *args)


class EnumeratedUrn:
    """Urns in float64 that only compare their uniforms, for the symbolic ones of `smc.testing`.

    `masked` (U, V): log-probabilities in nats, -inf for what is not allowed.
    """

    def __init__(self, masked: NDArray[np.float64], context: NDArray[np.int64]) -> None:
        top = masked.max(axis=1, keepdims=True)
        self._p = np.exp(masked - np.where(top > -np.inf, top, 0.0))[context]
        self._whole = self._p.sum(axis=1)
        self.log_left = np.where(self._whole > 0.0, 0.0, -np.inf)

    def draw(self, at: Rows, uniforms: NDArray[Any]) -> NDArray[np.int64]:
        """See `Urn.draw`."""
        return np.array([_invert(self._p[i], u) for i, u in zip(at, uniforms, strict=True)], np.int64)

    def take_out(self, at: Rows, tokens: NDArray[np.int64]) -> None:
        """See `Urn.take_out`."""
        self._p[at, tokens] = 0.0
        with np.errstate(divide="ignore"):
            self.log_left[at] = np.log(self._p[at].sum(axis=1) / self._whole[at])


def _invert(p: NDArray[np.float64], u: Any) -> int:
    cdf = np.cumsum(p)
    return next((int(v) for v in np.flatnonzero(p) if u < cdf[v] / cdf[-1]), -1)


@njit(cache=True)
def _sum_block(logits, mask, scale, peak, b):
    """The sum of exp(logit * scale - peak) over the allowed tokens of one block."""
    low, high = b * BLOCK, min((b + 1) * BLOCK, len(logits))
    values = np.empty(high - low, np.float32)
    write_exponentials(logits[low:high], peak, scale, values)
    apply_mask(mask[b * _WORDS :], values)
    return add_up(values)


@njit(cache=True)
def _find_peak(logits, mask, scale):
    """The largest logit that is still allowed, scaled; -inf where none is."""
    peak = np.float32(-np.inf)
    for v in range(len(logits)):
        if (mask[v >> 5] >> np.uint32(v & 31)) & np.uint32(1):
            peak = max(peak, logits[v])
    return peak * scale


@njit(cache=True)
def _take_one(logits, mask, scale, peak, blocks, token, log_whole):
    """Take out a token; the peak, which may be another, and nats of the share that is left."""
    mask[token >> 5] &= ~(np.uint32(1) << np.uint32(token & 31))
    b = token // BLOCK
    blocks[b] = _sum_block(logits, mask, scale, peak, b)
    if blocks.sum() < _FAINT:
        peak = _find_peak(logits, mask, scale)
        for b in range(len(blocks)):
            blocks[b] = _sum_block(logits, mask, scale, peak, b) if peak > -np.inf else 0.0
    total = blocks.sum()
    return peak, np.log(total) + np.float64(peak) - log_whole if total > 0.0 else -np.inf


@njit(parallel=True, cache=True)
def _take_out(logits, mask, scale, peak, blocks, context, at, tokens, log_whole, log_left):
    for k in prange(len(at)):
        i = at[k]
        c = context[i]
        peak[i], log_left[i] = _take_one(logits[c], mask[i], scale[c], peak[i], blocks[i], tokens[k], log_whole[i])


@njit(cache=True)
def _take_out_alone(logits, mask, scale, peak, blocks, context, at, tokens, log_whole, log_left):
    for k in range(len(at)):
        i = at[k]
        c = context[i]
        peak[i], log_left[i] = _take_one(logits[c], mask[i], scale[c], peak[i], blocks[i], tokens[k], log_whole[i])


@njit(parallel=True, cache=True)
def _draw(logits, mask, scale, peak, blocks, context, at, uniforms, out):
    for k in prange(len(at)):
        i = at[k]
        c = context[i]
        out[k] = locate(logits[c], mask[i], scale[c], peak[i], blocks[i], uniforms[k])


@njit(cache=True)
def _draw_alone(logits, mask, scale, peak, blocks, context, at, uniforms, out):
    for k in range(len(at)):
        i = at[k]
        c = context[i]
        out[k] = locate(logits[c], mask[i], scale[c], peak[i], blocks[i], uniforms[k])
