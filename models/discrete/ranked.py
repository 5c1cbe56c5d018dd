"""Laws over many tokens, of which only the likeliest of each position are kept, and exact draws from them.

A table of all probabilities over 50,000 tokens takes 400 KB for each position of each canvas. Kept are the R likeliest
tokens, with their probabilities under the whole law, and the probability of all others together. A draw first decides
between the R and "another"; who draws another asks the denoiser once more, for that position alone. So every token can
be drawn, as often as p says: nothing is cut off, and a step costs 1 + P(another) evaluations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW, Mask, Rows
from feynkac.models.discrete.denoiser import LogProbs, Tokens
from feynkac.models.discrete.draws import Draws, settle

Look: TypeAlias = Callable[[Rows], LogProbs]
"""(B,) numbers of rows to (B, K) nats: the whole law of the position that is being drawn."""
NUMBERS = 3
"""Draws that one token takes."""
FAINTEST = np.log(1e-30)
"""The least log-probability of a token for a guess, in nats: see `acceptance.UNLIKELY`."""


@dataclass(frozen=True)
class Ranking:
    """The R likeliest tokens of positions, with their nats under the whole law, and the nats of all others together."""

    tokens: Tokens
    """(..., R), the likeliest first."""
    log_p: NDArray[np.float64]
    """(..., R)"""
    log_rest: NDArray[np.float64]
    """(...)"""

    def pack(self) -> NDArray[np.float64]:
        """(..., 2 R + 1) in one array, which is kept, forked and saved as a table of all tokens is."""
        return np.concatenate([self.tokens.astype(np.float64), self.log_p, self.log_rest[..., None]], axis=-1)

    @classmethod
    def unpack(cls, packed: NDArray[np.float64]) -> Ranking:
        """What `pack` made."""
        n = packed.shape[-1] // 2
        return cls(packed[..., :n].astype(np.int64), packed[..., n : 2 * n], packed[..., -1])

    def __getitem__(self, at: Any) -> Ranking:
        return Ranking(self.tokens[at], self.log_p[at], self.log_rest[at])


@dataclass(frozen=True)
class Tilt:
    """A factor on each class of tokens, by which a proposal is guided."""

    factor: NDArray[np.float64]
    """(A, C), 0 where a class is ruled out."""
    token_class: NDArray[np.int64]
    """(K,)"""
    share: NDArray[np.float64]
    """(C,) the part of all tokens that is in each class."""

    def apply(self, law: Ranking) -> LogProbs:
        """(A, R + 1) nats, not normalised: those of the tokens, and a guess of all others, as if they were alike."""
        with np.errstate(divide="ignore"):
            near = np.log(np.take_along_axis(self.factor, self.token_class[law.tokens], axis=1))
            rest = np.log(self.factor @ self.share)
        log_p = np.column_stack([law.log_p, law.log_rest])
        return np.maximum(log_p, FAINTEST) + np.column_stack([near, rest])

    def apply_all(self, rows: Rows, log_p: LogProbs) -> LogProbs:
        """(B, K) nats of all tokens of some rows, not normalised."""
        with np.errstate(divide="ignore"):
            return np.maximum(log_p, FAINTEST) + np.log(self.factor[rows][:, self.token_class])


def draw_ranked(
    law: Ranking, look: Look, asked: Rows, draws: Draws, tilt: Tilt | None = None
) -> tuple[NDArray[np.int64], LogW]:
    """(A,) tokens for the `asked` rows by the `law` (A, R) of one position each, and (A,) log p - log q in nats.

    Without a `tilt` q is p; with one, q(v) is in proportion to p(v) factor(v) among the R tokens, and among the others.
    How often q draws one of the others is a guess, which the weight corrects.
    """
    log_p = np.column_stack([law.log_p, law.log_rest])
    log_q = log_p if tilt is None else _normalise(tilt.apply(law))
    told = draws.told(asked)
    chosen = draws.pick(settle(log_q, _find_column(law.tokens, told)), asked)
    row, last = np.arange(len(asked)), law.tokens.shape[1]
    drawn = law.tokens[row, np.minimum(chosen, last - 1)]
    ratio = _subtract(log_p[row, chosen], log_q[row, chosen])
    others = np.flatnonzero(chosen == last)
    drawn[others], more = _draw_other(law, look, asked, draws, tilt, others, told[others])
    ratio[others] += more
    return drawn, ratio


def _find_column(tokens: Tokens, told: Rows) -> Rows:
    """(A,) where each of the `told` tokens stands among the likeliest, R for one of the others; -1 for none told."""
    same = tokens == told[:, None]
    return np.where(told < 0, -1, np.where(same.any(axis=1), same.argmax(axis=1), tokens.shape[1]))


def _draw_other(
    law: Ranking, look: Look, asked: Rows, draws: Draws, tilt: Tilt | None, others: Rows, told: Rows
) -> tuple[NDArray[np.int64], LogW]:
    """(B,) tokens that are not among the likeliest, for the rows `others` of `asked`, and (B,) log p - log q of them.

    Both given that it is one of these. Two draws of one in sqrt(K): one of one in K takes a table of (N, K).
    """
    log_p = look(others).copy() if len(others) else np.empty((0, 1))
    if len(others):
        np.put_along_axis(log_p, law.tokens[others], -np.inf, axis=1)
    log_p = _normalise(log_p)
    log_q = log_p if tilt is None else _tilt_others(tilt, others, log_p)
    width = int(np.ceil(np.sqrt(log_q.shape[1])))
    padded = np.full((len(others), width * width), -np.inf)
    padded[:, : log_q.shape[1]] = log_q
    blocks = padded.reshape(len(others), width, width)
    with np.errstate(divide="ignore"):
        mass = np.log(np.exp(blocks).sum(axis=2))
    first = draws.pick(settle(mass, np.where(told < 0, -1, told // width)), asked[others])
    row = np.arange(len(others))
    drawn = first * width + draws.pick(settle(blocks[row, first], np.where(told < 0, -1, told % width)), asked[others])
    return drawn, _subtract(log_p[row, drawn], log_q[row, drawn])


def _tilt_others(tilt: Tilt, others: Rows, log_p: LogProbs) -> LogProbs:
    """(B, K) nats of q; it is p itself where the tilt rules all of them out."""
    near = log_p == -np.inf
    tilted = np.where(near, -np.inf, tilt.apply_all(others, log_p))
    return _normalise(np.where((tilted > -np.inf).any(axis=1, keepdims=True), tilted, log_p))


def draw_completion(law: Ranking, tokens: Tokens, hidden: Mask, draws: Draws) -> Tokens:
    """(R, L) the canvases `tokens`, with what is hidden drawn from the likeliest tokens alone: a guess."""
    filled = tokens.copy()
    for rows, places in draws.each(hidden):
        here = law[rows, places]
        filled[rows, places] = here.tokens[np.arange(len(rows)), draws.categorical(here.log_p, rows)]
    return filled


def _subtract(log_p: LogW, log_q: LogW) -> LogW:
    """(A,) log p - log q; -inf of what p rules out, whatever q thinks of it."""
    with np.errstate(invalid="ignore"):
        return np.where(log_p == -np.inf, -np.inf, log_p - log_q)


def _normalise(log_p: LogProbs) -> LogProbs:
    top = log_p.max(axis=-1, keepdims=True)
    shifted = log_p - np.where(top == -np.inf, 0.0, top)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(top == -np.inf, -np.inf, shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
