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
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Mask, Rng, Rows
from feynkac.models.language.draws.kernels import normalise
from feynkac.models.language.draws.next_token import Drawn, check_law, mask_laws
from feynkac.models.language.draws.urn import EnumeratedUrn, FastUrn, Urn

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.masks import TokenMask


class Rounds:
    """The random numbers of further draws, by the number of the round: the same for all proposals of a batch."""

    def __init__(self, rng: Rng, n: int) -> None:
        self._rng, self._n = rng, n
        self._known: list[NDArray[Any]] = []

    def find(self, k: int) -> NDArray[Any]:
        """(N,) in [0, 1), those of round `k`."""
        while len(self._known) <= k:
            self._known.append(self._rng.uniform(self._n))
        return self._known[k]


class Asks(Protocol):
    """Who knows of each problem which automata check its tokens (`columns.Columns`)."""

    def check(self, states: NDArray[np.int64], tokens: NDArray[np.int64], group: NDArray[np.int64]) -> Mask: ...


@dataclass(frozen=True, eq=False)
class Checks:
    """What the R rows of a frontier ask about their tokens, and the random numbers of their further draws."""

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

    def uniforms(self, k: int) -> NDArray[Any]:
        """(R,) those of round `k`; of each row the same, whatever others run beside it."""
        return self.rounds.find(k)[self.rows]

    def select(self, at: Rows) -> Checks:
        """The same of the rows `at` alone."""
        own = (self.states[at], self.group[at], self.draws[at])
        return Checks(self.asks, *own, self.rounds, self.rows[at])


def draw_checked(
    logits: Tensor,
    mask: TokenMask,
    scale: NDArray[np.float32],
    context: NDArray[np.int64],
    uniforms: NDArray[Any],
    checks: Checks,
    pinned: int | None = None,
) -> Drawn:
    """Draw for each row from the law of its context on the tokens that its mask allows and `checks` accepts.

    The arguments are those of `draw_tokens`. The `log_mass` of a row is an estimate, whose exponential is unbiased
    given its token. It is made on the CPU, wherever the logits are.
    """
    if uniforms.dtype == object:
        log_p, masked, log_allowed = mask_laws(logits, mask, scale)
        urn: Urn = EnumeratedUrn(masked, context)
        tokens, log_share = reject(urn, checks, uniforms, pinned)
        log_prob = log_p[context, np.maximum(tokens, 0)]
    else:
        values = logits.cpu().numpy()
        law = normalise(values, mask, scale)
        check_law(law.log_total, logits)
        urn, log_allowed = FastUrn(values, mask, scale, law, context), law.log_mass
        tokens, log_share = reject(urn, checks, uniforms, pinned)
        log_prob = np.float64(values[context, np.maximum(tokens, 0)]) * scale[context] - law.log_total[context]
    return Drawn(tokens, np.where(tokens < 0, -np.inf, log_prob), log_allowed[context] + log_share)


def reject(
    urn: Urn, checks: Checks, uniforms: NDArray[Any], pinned: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(R,) the first accepted token of each row, -1 where none is, and (R,) nats of the share estimated as accepted.

    The first draw is by `uniforms` (R,), further ones are by those of `checks`. Row 0 takes `pinned`, if it is given
    and accepted. The rows are independent of each other, whoever shares their verdicts.
    """
    n, draws = len(uniforms), checks.draws
    tokens, wanted = np.full(n, -1, np.int64), draws.copy()
    if pinned is not None:
        known = checks.check(np.zeros(1, np.int64), np.array([pinned]))[0]
        tokens[0], wanted[0] = (pinned, draws[0] - 1) if known else (-1, 0)
    h = np.ones((n, draws.max(initial=2)))
    """h_d(1/S_0, ..., 1/S_j) * S_j^d for each degree d, which neither over- nor underflows."""
    going, k = np.flatnonzero(wanted), 0
    while len(going):
        drawn = urn.draw(going, uniforms[going])
        if drawn.min() < 0:  # what is left of a law may be nothing
            going, drawn = going[drawn >= 0], drawn[drawn >= 0]
        accepted = checks.check(going, drawn)
        hit, missed = going[accepted], going[~accepted]
        if len(hit):
            tokens[hit] = np.where(tokens[hit] < 0, drawn[accepted], tokens[hit])
            wanted[hit] -= 1
        if len(missed):
            _take_out(urn, missed, drawn[~accepted], h)
        going = going[wanted[going] > 0]
        uniforms, k = checks.uniforms(k) if len(going) else uniforms, k + 1
    every = np.arange(n)
    log_share = urn.log_left + np.log(h[every, draws - 2]) - np.log(h[every, draws - 1])
    return tokens, np.where(tokens < 0, -np.inf, log_share)


def _take_out(urn: Urn, at: Rows, tokens: NDArray[np.int64], h: NDArray[np.float64]) -> None:
    """Take rejected tokens out, and one more variable into the polynomials."""
    before = urn.log_left[at]
    urn.take_out(at, tokens)
    ratio = np.exp(urn.log_left[at] - before)
    for d in range(1, h.shape[1]):
        h[at, d] = h[at, d] * ratio**d + h[at, d - 1]
