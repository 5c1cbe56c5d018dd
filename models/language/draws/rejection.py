"""Rejection sampling of a token under a check that is asked about one token at a time, properly weighted.

Each row draws from what is left of its law q until k draws were accepted, and takes the first of them. What is rejected
is taken out, what is accepted stays in (adaptive weighted rejection sampling: Lipkin et al. 2025, arXiv 2504.05410).
With n tokens rejected, and S_j the share of the law left after j of them, the weight

    w = h_{k-2}(1/S_0, ..., 1/S_n) / h_{k-1}(1/S_0, ..., 1/S_n)

is an unbiased estimate of the accepted share a of q, and independent of which token came first; h_d is the complete
homogeneous symmetric polynomial, the sum of all products of d factors. Proof: given the rejected tokens in order, the
k - 1 accepts before the last may stand anywhere among them; a sequence with the accepts behind j_1 <= ... <= j_{k-1}
rejections has probability prod_i q(r_i)/S_{i-1} * a^k * 1/S_{j_1} * ... * 1/S_{j_{k-1}} * 1/S_n. Sum over the j, times
w: it is a times the probability of the same rejections in a run that stops at accept k - 1, and these add up to 1.

The same line says what conditional SMC needs: given that the first token is v, and weighted by w, the rejected tokens
are those of a run that stops at accept k - 1. So a pinned row wants one accept less, whatever its token.

Where one accepted token has most of the law, most draws repeat it, and cost nothing. No share of rejections is too
large: a row goes on until its law is used up, and then nothing is accepted and w is 0.

A row that was often rejected is likely to be so again. It draws ahead, several tokens without replacement, asks about
all of them at once, and takes the first that is accepted; what was drawn behind that one is put back, as if it had
never been drawn. Each draw has its own uniform number, so that tokens and weights are the same however far ahead is
drawn. What is asked in vain is at most one eighth of what the row had rejected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feynkac.base.contract import Mask, Rng, Rows
from feynkac.models.language.draws.kernels import normalise
from feynkac.models.language.draws.next_token import Drawn, check_law, mask_laws
from feynkac.models.language.draws.urn import EnumeratedUrn, FastUrn, Urn

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.masks import TokenMask


class Rounds:
    """The random numbers of the draws of a step, by the number of the draw: the same for all proposals of a batch.

    `first` (N,) in [0, 1): those of draw 0; further ones are drawn from `rng` when they are asked for.
    """

    def __init__(self, rng: Rng, first: NDArray[Any]) -> None:
        self._rng, self._known, self._count = rng, first[None], 1
        self.symbolic = first.dtype == object
        """Whether they can only be compared, as those of `smc.testing`."""

    def find(self, rows: Rows, draws: NDArray[np.int64]) -> NDArray[Any]:
        """(A, B) the numbers of `draws` (A, B) of the rows (A,)."""
        while self._count <= draws.max(initial=0):
            if self._count == len(self._known):
                self._known = np.concatenate([self._known, np.empty_like(self._known)])
            self._known[self._count] = self._rng.uniform(self._known.shape[1])
            self._count += 1
        return self._known[draws, rows[:, None]]


class Asks(Protocol):
    """Who knows of each problem which automata check its tokens (`columns.Columns`)."""

    def check(self, states: NDArray[np.int64], tokens: NDArray[np.int64], group: NDArray[np.int64]) -> Mask: ...


@dataclass(frozen=True, eq=False)
class Checks:
    """What the R rows of a frontier ask about their tokens, and the random numbers of their draws."""

    asks: Asks
    states: NDArray[np.int64]
    """(R, C) the states of all automata."""
    group: NDArray[np.int64]
    """(R,) the problems."""
    draws: NDArray[np.int64]
    """(R,) how many draws of a token are to be accepted, at least 2."""
    rounds: Rounds
    rows: Rows
    """(R,) the rows of the population that are drawn for."""

    def check(self, at: Rows, tokens: NDArray[np.int64]) -> Mask:
        """(A,) whether each token is accepted in the row `at`."""
        return self.asks.check(self.states[at], tokens, self.group[at])

    def find_uniforms(self, at: Rows, draws: NDArray[np.int64]) -> NDArray[Any]:
        """(A, B) those of `draws` (A, B) of the rows `at`; of each row the same, whatever others run beside it."""
        return self.rounds.find(self.rows[at], draws)

    def select(self, at: Rows) -> Checks:
        """The same of the rows `at` alone."""
        own = (self.states[at], self.group[at], self.draws[at])
        return Checks(self.asks, *own, self.rounds, self.rows[at])


def draw_checked(
    logits: Tensor,
    mask: TokenMask,
    scale: NDArray[np.float32],
    context: NDArray[np.int64],
    checks: Checks,
    pinned: int | None = None,
) -> Drawn:
    """Draw for each row from the law of its context on the tokens that its mask allows and `checks` accepts.

    The arguments are those of `draw_tokens`, with `checks` for its uniforms. The `log_mass` of a row is an estimate,
    whose exponential is unbiased given its token. It is made on the CPU, wherever the logits are.
    """
    if checks.rounds.symbolic:
        log_p, masked, log_allowed = mask_laws(logits, mask, scale)
        urn: Urn = EnumeratedUrn(masked, context)
        tokens, log_share = reject(urn, checks, pinned)
        log_prob = log_p[context, np.maximum(tokens, 0)]
    else:
        values = logits.cpu().numpy()
        law = normalise(values, mask, scale)
        check_law(law.log_total, logits)
        urn, log_allowed = FastUrn(values, mask, scale, law, context), law.log_mass
        tokens, log_share = reject(urn, checks, pinned)
        log_prob = np.float64(values[context, np.maximum(tokens, 0)]) * scale[context] - law.log_total[context]
    return Drawn(tokens, np.where(tokens < 0, -np.inf, log_prob), log_allowed[context] + log_share)


_PART = 8
"""Of the tokens that a row has rejected, one in so many may be asked about in vain."""
_MOST = 64
"""Tokens of a row that are asked about at once."""


def reject(urn: Urn, checks: Checks, pinned: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(R,) the first accepted token of each row, -1 where none is, and (R,) nats of the share estimated as accepted.

    Row 0 takes `pinned`, if it is given and accepted. The rows are independent of each other, whoever shares their
    verdicts.
    """
    n, draws = len(checks.rows), checks.draws
    tokens, wanted = np.full(n, -1, np.int64), draws.copy()
    if pinned is not None:
        known = checks.check(np.zeros(1, np.int64), np.array([pinned]))[0]
        tokens[0], wanted[0] = (pinned, draws[0] - 1) if known else (-1, 0)
    h = np.ones((n, draws.max(initial=2)))
    """h_d(1/S_0, ..., 1/S_j) * S_j^d for each degree d, which neither over- nor underflows."""
    tally = np.zeros((4, n), np.int64)
    made, ahead = tally[0], tally[3]
    ahead[:] = 1
    going = np.flatnonzero(wanted)
    while len(going):
        count = ahead[going]
        which = made[going, None] + np.arange(count.max())
        drawn = urn.draw(going, checks.find_uniforms(going, which), count)
        k, j = np.nonzero(drawn >= 0)
        missed = settle(going, drawn, checks.check(going[k], drawn[k, j]), tokens, wanted, tally, _PART)
        if missed.any():
            before = urn.log_left[going]
            extend(h, going, before, urn.take_out(going, drawn, missed), missed)
        going = going[wanted[going] > 0]
    every = np.arange(n)
    log_share = urn.log_left + np.log(h[every, draws - 2]) - np.log(h[every, draws - 1])
    return tokens, np.where(tokens < 0, -np.inf, log_share)


@njit(cache=True)
def settle(at, drawn, verdicts, tokens, wanted, tally, part):
    """Take the first accepted token of each row `at`; (A,) how many were rejected before it.

    `drawn` (A, B) tokens, -1 behind the last ones; `verdicts` on all of them, one row after the other. Of all R rows:
    `tokens`, how many accepted ones are `wanted`, and the `tally` (4, R) of draws made, tokens rejected, tokens asked
    about in vain, and how many to draw next, so that one in `part` of those rejected is asked about in vain at most.
    """
    missed, p = np.zeros(len(at), np.int64), 0
    for k in range(len(at)):
        i, asked, hit = at[k], 0, 0
        while asked < drawn.shape[1] and drawn[k, asked] >= 0:
            if verdicts[p] and not hit:
                hit = 1
                tokens[i] = drawn[k, asked] if tokens[i] < 0 else tokens[i]
            missed[k] += 1 - hit
            asked += 1
            p += 1
        wanted[i] = wanted[i] - hit if asked else 0  # what is left of a law may be nothing
        tally[0, i] += missed[k] + hit
        tally[1, i] += missed[k]
        tally[2, i] += asked - missed[k] - hit
        tally[3, i] = min(1 + tally[1, i] // part - tally[2, i], _MOST)
    return missed


@njit(cache=True)
def extend(h, at, before, left, count):
    """One more variable in the polynomials of rows `at` for each of the `count` tokens that were taken out of them.

    `before` (A,) nats of the shares left till then, `left` (A, B) nats of those left after each token.
    """
    for k in range(len(at)):
        last = before[k]
        for j in range(count[k]):
            ratio = np.exp(left[k, j] - last)
            last = left[k, j]
            for d in range(1, h.shape[1]):
                h[at[k], d] = h[at[k], d] * ratio**d + h[at[k], d - 1]
