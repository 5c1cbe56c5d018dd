"""Draws without replacement: each row has an urn with the tokens of its law, from which rejected ones are taken out.

What is left is always summed and never subtracted: a token of mass 1e-9 keeps all its digits when the rest is gone.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Rows
from feynkac.base.masks import TokenMask
from feynkac.models.language.draws.kernels import BLOCK, NextTokenLaw, run_kernel
from feynkac.models.language.draws.urn_kernels import WORDS, draw, draw_alone, take_out, take_out_alone


class Urn(Protocol):
    """R urns, each with the tokens of the law of one row."""

    log_left: NDArray[np.float64]
    """(R,) nats of the share of the law that has not been taken out; -inf of nothing."""

    def draw(self, at: Rows, uniforms: NDArray[Any], count: NDArray[np.int64]) -> NDArray[np.int64]:
        """(A, B) tokens in a row from each of the urns `at`: those that come if each is taken out before the next.

        All of them stay in. `uniforms` (A, B); of urn k there are `count[k]` tokens at most, at least the first unless
        the urn is empty, and -1 behind them. The tokens do not depend on how many are drawn.
        """
        ...

    def take_out(self, at: Rows, tokens: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.float64]:
        """Take the first `count[k]` of `tokens[k]` out of urn `at[k]`; `at` are all different.

        (A, B) nats of the share that is left after each of them, in the order of `tokens` (A, B).
        """
        ...


class FastUrn:
    """Urns over float32 logits on the CPU; the sums of blocks that no draw has come to are those of `normalise`."""

    def __init__(
        self,
        logits: NDArray[np.float32],
        mask: TokenMask,
        scale: NDArray[np.float32],
        law: NextTokenLaw,
        context: NDArray[np.int64],
    ) -> None:
        blocks = law.blocks[context]
        words, entered = np.empty((len(blocks), WORDS * blocks.shape[1])), np.zeros(blocks.shape, np.bool_)
        self._tables = logits, mask[context], scale, law.peak[context], blocks, words, entered, context
        """All that is taken out of is copied. `words` (R, V / 32 or more) are summed where `entered` (R, B) is True."""
        self._log_whole = law.log_allowed[context]
        self.log_left = np.where(self._log_whole > -np.inf, 0.0, -np.inf)

    def draw(self, at: Rows, uniforms: NDArray[Any], count: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Urn.draw`."""
        tokens = np.full(uniforms.shape, -1, np.int64)
        _run(draw, draw_alone, self._tables, at, np.ascontiguousarray(uniforms), count, tokens)
        return tokens

    def take_out(self, at: Rows, tokens: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Urn.take_out`."""
        left = np.empty(tokens.shape)
        _run(take_out, take_out_alone, self._tables, at, tokens, count, self._log_whole, self.log_left, left)
        return left


def _run(parallel: Any, alone: Any, *args: Any) -> None:
    """Run a kernel on tables of a batch, at some of its rows: few, when most have their tokens."""
    logits, at = args[0][0], args[1]
    run_kernel(parallel, alone, len(at) * min(BLOCK, logits.shape[1]), *args)


class EnumeratedUrn:
    """Urns in float64 that only compare their uniforms, for the symbolic ones of `smc.testing`.

    `masked` (U, V): log-probabilities in nats, -inf for what is not allowed.
    """

    def __init__(self, masked: NDArray[np.float64], context: NDArray[np.int64]) -> None:
        top = masked.max(axis=1, keepdims=True)
        self._p = np.exp(masked - np.where(top > -np.inf, top, 0.0))[context]
        self._whole = self._p.sum(axis=1)
        self.log_left = np.where(self._whole > 0.0, 0.0, -np.inf)

    def draw(self, at: Rows, uniforms: NDArray[Any], count: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Urn.draw`."""
        tokens = np.full(uniforms.shape, -1, np.int64)
        for k, i in enumerate(at):
            p = self._p[i].copy()
            for j in range(count[k]):
                tokens[k, j] = _invert(p, uniforms[k, j])
                if tokens[k, j] < 0:
                    break
                p[tokens[k, j]] = 0.0
        return tokens

    def take_out(self, at: Rows, tokens: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Urn.take_out`."""
        left = np.empty(tokens.shape)
        for k, i in enumerate(at):
            for j in range(count[k]):
                self._p[i, tokens[k, j]] = 0.0
                with np.errstate(divide="ignore"):
                    left[k, j] = self.log_left[i] = np.log(self._p[i].sum() / self._whole[i])
        return left


def _invert(p: NDArray[np.float64], u: Any) -> int:
    cdf = np.cumsum(p)
    return next((int(v) for v in np.flatnonzero(p) if u < cdf[v] / cdf[-1]), -1)
