"""Meeting a regular constraint: the probability that a canvas will, and the posterior given that it does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW, Mask, Rows
from feynkac.base.masks import TokenConstraint
from feynkac.models.discrete.automata import CanvasAutomaton, compiled
from feynkac.models.discrete.canvas import Canvas
from feynkac.models.discrete.denoiser import LogProbs, Tokens
from feynkac.models.discrete.draws import Draws
from feynkac.models.discrete.kernels import Uniform
from feynkac.models.discrete.messages import Chained, Factorised, Messages, maybe_redrawn
from feynkac.models.discrete.proposals import log_ratio, normalised

UNLIKELY = 1e-30
"""The least probability of a token at an open position, here only: what a denoiser thinks impossible now it may not
think so later, so that only the automaton itself may rule a canvas out."""


def chances(canvas: Canvas, rows: Rows) -> NDArray[np.float64]:
    """(R, L, K) probabilities of the finished tokens, no token ruled out where its position may still change."""
    p = np.exp(canvas.clean(rows))
    hidden = canvas.tokens_now[rows] == canvas.k
    if isinstance(canvas.kernel, Uniform):
        return np.maximum(p, UNLIKELY)
    visible = maybe_redrawn(p, canvas.kernel.redrawn(canvas.time))
    return np.where(hidden[..., None], np.maximum(p, UNLIKELY), np.where(canvas.free[rows][..., None], visible, p))


def messages(
    automaton: CanvasAutomaton, canvas: Canvas, rows: Rows, going: Mask | None = None, redrawn: float = 0.0
) -> Messages:
    """What is known of `rows`; at the positions `going` (R, L), which are being masked again, any token may stand.

    `redrawn`: the probability that a token drawn in this step is masked again before the end. A denoiser that tells how
    neighbours depend on each other is listened to where tokens stay once they are shown.
    """
    p = chances(canvas, rows)
    if going is not None:
        p[going] = 1.0 / canvas.k
    pairs = canvas.pairs(rows)
    if pairs is None:
        return Factorised(automaton, p, redrawn)
    hidden = canvas.tokens_now[rows, 1:] == canvas.k
    return Chained(
        automaton, p[:, 0], np.where(hidden[..., None, None], np.maximum(np.exp(pairs), UNLIKELY), p[:, 1:, None])
    )


class Guided:
    """Draws the values of a step from the denoiser's posterior given that the finished text is accepted.

    Where a step draws clean tokens they are drawn jointly, from left to right, exactly; in the middle of uniform
    diffusion each position follows its own constrained posterior.
    """

    def __init__(self, automaton: CanvasAutomaton) -> None:
        self.automaton = automaton

    def draw(self, t: int, canvas: Canvas, rows: Rows, moved: Mask, law: LogProbs, draws: Draws) -> tuple[Tokens, LogW]:
        going = moved & (law[..., canvas.k] == 0.0) if law.shape[-1] > canvas.k else None
        reveals = canvas.kernel.reveals(t)
        known = messages(self.automaton, canvas, rows, going, canvas.kernel.redrawn(t + 1) if reveals else 0.0)
        if reveals:
            return _jointly(canvas, rows, moved, law, draws, known)
        assert isinstance(known, Factorised)
        tokens = canvas.tokens_now[rows].copy()
        with np.errstate(divide="ignore"):
            log_q = canvas.kernel.law(t, tokens, normalised(np.log(known.posterior())))
        log_q = np.where(_lost(known)[:, None, None], law, log_q)
        draws.fill(tokens, moved, log_q)
        return tokens, log_ratio(law, log_q, tokens, moved)


def _jointly(
    canvas: Canvas, rows: Rows, moved: Mask, law: LogProbs, draws: Draws, known: Messages
) -> tuple[Tokens, LogW]:
    k, tokens, inc = canvas.k, canvas.tokens_now[rows].copy(), np.zeros(len(rows))
    alpha, lost = known.begin(), _lost(known)
    for i in range(tokens.shape[1]):
        asked = np.flatnonzero(moved[:, i])
        log_p = law[asked, i]
        q = np.exp(log_p)
        possible = q[:, :k].sum(axis=1, keepdims=True) > 0.0
        q[:, :k] = np.where(possible, np.maximum(q[:, :k], UNLIKELY), 0.0)
        guided = np.where(possible, known.weights(alpha, i, asked, q[:, :k]), 0.0)
        q[:, :k] = np.where(lost[asked, None], q[:, :k], guided)
        with np.errstate(divide="ignore"):
            log_q = normalised(np.log(q))
        drawn = draws.categorical(log_q, asked)
        tokens[asked, i] = drawn
        inc[asked] += _at(log_p, drawn) - _at(log_q, drawn)
        shown = drawn < k
        known.show(i, asked[shown], drawn[shown])
        alpha = known.advance(alpha, i)
    return tokens, inc


def _lost(known: Messages) -> Mask:
    """(R,) rows that no proposal can help: they follow p to their end."""
    return known.log_accepted == -np.inf


def _at(log_p: NDArray[np.float64], drawn: NDArray[np.int64]) -> LogW:
    return log_p[np.arange(len(drawn)), drawn]


def log_accepted(canvas: Canvas, constraint: TokenConstraint, rows: Rows) -> LogW:
    """(R,) nats, at most 0: the exact probability under the denoiser that the finished text is accepted.

    -inf where no filling in of the canvas is accepted. The constraints of a run are met together or not at all: the
    first one answers for all of them, so that their levels add up to that of the joint automaton.
    """
    together = canvas.constraints if constraint in canvas.constraints else (constraint,)
    if constraint is not together[0]:
        return np.zeros(len(rows))
    return messages(compiled(canvas.vocabulary, together, canvas.tokens_now.shape[1]), canvas, rows).log_accepted
