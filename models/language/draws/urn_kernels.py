"""Kernels of urns (`urn`): tokens are drawn from what is left of a law, and taken out, in compiled code.

Nothing is sorted. Sums are kept of blocks and, in blocks that a draw has come to, of words, the 32 tokens of a word of
the mask. A draw finds its block, its word and its token by them; taking a token out clears its bit and sums its word
anew, so that both cost some hundred operations, whatever the vocabulary.

`tables` are those of `FastUrn`, and `urn` is a row of them.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from feynkac.models.language.draws.kernels import BLOCK, apply_mask, write_exponentials

WORDS = BLOCK // 32
_FAINT = 1e-20
"""Of the largest exponential: where less is left, all is summed anew, relative to the largest that is left."""


@njit(cache=True)
def _pick(tables, i):
    logits, mask, scale, peak, blocks, words, entered, context = tables
    c = context[i]
    return logits[c], mask[i], scale[c], peak[i : i + 1], blocks[i], words[i], entered[i]


@njit(cache=True)
def _write_word(urn, w, values):
    """exp(logit * scale - peak) of the tokens of one word that are still in, and 0 of those that are not."""
    logits, mask, scale, peak, _, _, _ = urn
    low, high = 32 * w, min(32 * (w + 1), len(logits))
    values = values[: high - low]
    write_exponentials(logits[low:high], peak[0], scale, values)
    apply_mask(mask[w:], values)
    return values


@njit(cache=True)
def _sum_word(urn, w, values):
    total = 0.0
    for x in _write_word(urn, w, values):
        total += x
    return total


@njit(cache=True)
def _enter(urn, b, values):
    """Sum the words of one block."""
    logits, _, _, _, _, words, entered = urn
    for w in range(b * WORDS, (b + 1) * WORDS):
        words[w] = _sum_word(urn, w, values) if 32 * w < len(logits) else 0.0
    entered[b] = True


@njit(cache=True)
def _pass(sums, remaining):
    """Where the cumulated `sums` pass `remaining`, and what is left of it there; -1 where there is no mass."""
    last = -1
    for k in range(len(sums)):
        if sums[k] > 0.0:
            last = k
            if remaining < sums[k]:
                return k, remaining
            remaining -= sums[k]
    return last, np.inf  # rounding left it past the end


@njit(cache=True)
def _find(urn, u, values):
    """The token at which the cumulated share of what is left passes the uniform `u`; -1 where nothing is left."""
    _, _, _, _, blocks, words, entered = urn
    b, remaining = _pass(blocks, u * blocks.sum())
    if b < 0:
        return -1
    if not entered[b]:
        _enter(urn, b, values)
    w, remaining = _pass(words[b * WORDS : (b + 1) * WORDS], remaining)
    w += b * WORDS
    v, _ = _pass(_write_word(urn, w, values), remaining)
    return 32 * w + v


@njit(cache=True)
def _clear(urn, token, values):
    """Take out a token of a block that was entered."""
    _, mask, _, _, blocks, words, _ = urn
    w, b = token >> 5, token // BLOCK
    mask[w] &= ~(np.uint32(1) << np.uint32(token & 31))
    words[w] = _sum_word(urn, w, values)
    blocks[b] = words[b * WORDS : (b + 1) * WORDS].sum()


@njit(cache=True)
def _sum_anew(urn, values):
    """All sums relative to the largest logit that is left."""
    logits, mask, scale, peak, blocks, words, _ = urn
    top = np.float32(-np.inf)
    for v in range(len(logits)):
        if (mask[v >> 5] >> np.uint32(v & 31)) & np.uint32(1):
            top = max(top, logits[v])
    peak[0] = top * scale
    for b in range(len(blocks)):
        if top > -np.inf:
            _enter(urn, b, values)
        blocks[b] = words[b * WORDS : (b + 1) * WORDS].sum() if top > -np.inf else 0.0


@njit(cache=True)
def _draw_ahead(urn, uniforms, count, out):
    """Draw from one urn, taking out what was drawn, and put all back as it was."""
    _, mask, _, _, blocks, words, _ = urn
    values, before = np.empty(32, np.float32), np.empty((count, 2))
    taken = 0
    for j in range(count):
        token = out[j] = _find(urn, uniforms[j], values)
        if token < 0 or j == count - 1:
            break
        before[j, 0], before[j, 1] = words[token >> 5], blocks[token // BLOCK]
        _clear(urn, token, values)
        taken += 1
        if blocks.sum() < _FAINT:  # further ones are drawn when these are out, by sums relative to another peak
            break
    for j in range(taken - 1, -1, -1):
        token = out[j]
        mask[token >> 5] |= np.uint32(1) << np.uint32(token & 31)
        words[token >> 5], blocks[token // BLOCK] = before[j, 0], before[j, 1]


@njit(cache=True)
def _take_some(urn, tokens, count, log_whole, left):
    """Take tokens out of one urn."""
    _, _, _, peak, blocks, _, entered = urn
    values = np.empty(32, np.float32)
    for j in range(count):
        if not entered[tokens[j] // BLOCK]:
            _enter(urn, tokens[j] // BLOCK, values)
        _clear(urn, tokens[j], values)
        if blocks.sum() < _FAINT:
            _sum_anew(urn, values)
        total = blocks.sum()
        left[j] = np.log(total) + np.float64(peak[0]) - log_whole if total > 0.0 else -np.inf


@njit(parallel=True, cache=True)
def draw(tables, at, uniforms, count, out):
    for k in prange(len(at)):
        _draw_ahead(_pick(tables, at[k]), uniforms[k], count[k], out[k])


@njit(cache=True)
def draw_alone(tables, at, uniforms, count, out):
    for k in range(len(at)):
        _draw_ahead(_pick(tables, at[k]), uniforms[k], count[k], out[k])


@njit(parallel=True, cache=True)
def take_out(tables, at, tokens, count, log_whole, log_left, left):
    for k in prange(len(at)):
        _take_some(_pick(tables, at[k]), tokens[k], count[k], log_whole[at[k]], left[k])
        log_left[at[k]] = left[k, count[k] - 1] if count[k] else log_left[at[k]]


@njit(cache=True)
def take_out_alone(tables, at, tokens, count, log_whole, log_left, left):
    for k in range(len(at)):
        _take_some(_pick(tables, at[k]), tokens[k], count[k], log_whole[at[k]], left[k])
        log_left[at[k]] = left[k, count[k] - 1] if count[k] else log_left[at[k]]
