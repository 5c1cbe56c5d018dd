"""Meeting a regular constraint: the probability that a canvas will, and the posterior given that it does."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.masks import TokenConstraint
from feynkac.models.discrete.automata import CanvasAutomaton, compiled, forward
from feynkac.models.discrete.canvas import Canvas
from feynkac.models.discrete.denoiser import LogProbs, Tokens
from feynkac.models.discrete.draws import Draws
from feynkac.models.discrete.kernels import Uniform
from feynkac.models.discrete.proposals import log_ratio, normalised
from feynkac.smc.protocols import LogW, Mask, Rows

UNLIKELY = 1e-30
"""The least probability of a token at an open position, here only: what a denoiser thinks impossible now it may not
think so later, so that only the automaton itself may rule a canvas out."""


def chances(canvas: Canvas, rows: Rows) -> NDArray[np.float64]:
    """(R, L, K) probabilities of the finished tokens, no token ruled out where its position may still change."""
    p = np.exp(canvas.clean(rows))
    hidden = canvas.tokens_now[rows] == canvas.k
    if isinstance(canvas.kernel, Uniform):
        return np.maximum(p, UNLIKELY)
    visible = _maybe_redrawn(p, canvas.kernel.redrawn(canvas.time))
    return np.where(hidden[..., None], np.maximum(p, UNLIKELY), np.where(canvas.free[rows][..., None], visible, p))


def _maybe_redrawn(p: NDArray[np.float64], chance: float) -> NDArray[np.float64]:
    """Any token at all takes the place of a visible one that is masked again."""
    return (1.0 - chance) * p + chance / p.shape[-1]


class Guided:
    """Draws the values of a step from the factorised posterior given that the finished text is accepted.

    Where a step draws clean tokens they are drawn jointly, from left to right, exactly; in the middle of uniform
    diffusion each position follows its own constrained posterior.
    """

    def __init__(self, automaton: CanvasAutomaton) -> None:
        self.automaton = automaton

    def draw(self, t: int, canvas: Canvas, rows: Rows, moved: Mask, law: LogProbs, draws: Draws) -> tuple[Tokens, LogW]:
        p = chances(canvas, rows)
        if law.shape[-1] > canvas.k:  # tokens that this very step masks again are as good as gone
            p[moved & (law[..., canvas.k] == 0.0)] = 1.0 / canvas.k
        beta, log_accepted = self.automaton.backward(p)
        lost = log_accepted == -np.inf  # no proposal can help such a row: it follows p to its end
        if canvas.kernel.reveals(t):
            return self._jointly(t, canvas, rows, moved, law, draws, (p, beta, lost))
        tokens = canvas.tokens_now[rows].copy()
        log_q = canvas.kernel.law(t, tokens, self._posterior(p, beta))
        log_q = np.where(lost[:, None, None], law, log_q)
        draws.fill(tokens, moved, log_q)
        return tokens, log_ratio(law, log_q, tokens, moved)

    def _jointly(
        self, t: int, canvas: Canvas, rows: Rows, moved: Mask, law: LogProbs, draws: Draws, messages: tuple[Any, ...]
    ) -> tuple[Tokens, LogW]:
        p, beta, lost = messages
        automaton, k, classes = self.automaton, canvas.k, self.automaton.classes(p)
        tokens, inc, alpha = canvas.tokens_now[rows].copy(), np.zeros(len(rows)), self._begin(len(rows))
        for i in range(tokens.shape[1]):
            asked = np.flatnonzero(moved[:, i])
            log_p = law[asked, i]
            q = np.exp(log_p)
            q[:, :k] = np.where(q[:, :k].sum(axis=1, keepdims=True) > 0.0, np.maximum(q[:, :k], UNLIKELY), 0.0)
            q[:, :k] *= np.where(lost[asked, None], 1.0, self._reach(alpha[asked], beta[asked, i + 1]))
            with np.errstate(divide="ignore"):
                log_q = normalised(np.log(q))
            drawn = draws.categorical(log_q, asked)
            tokens[asked, i] = drawn
            inc[asked] += _at(log_p, drawn) - _at(log_q, drawn)
            shown = drawn < k
            stays = (drawn[shown, None] == np.arange(k)).astype(np.float64)
            classes[asked[shown], i] = automaton.classes(_maybe_redrawn(stays, canvas.kernel.redrawn(t + 1)))
            alpha = forward(alpha, classes[:, i], automaton.delta)
        return tokens, inc

    def _begin(self, n: int) -> NDArray[np.float64]:
        alpha = np.zeros((n, len(self.automaton.delta)))
        alpha[:, self.automaton.start] = 1.0
        return alpha

    def _reach(self, alpha: NDArray[np.float64], beta: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R, K) how likely acceptance is after each token, from the weights `alpha` (R, S) of the states before."""
        by_class = np.stack([(alpha * beta[:, after]).sum(axis=1) for after in self.automaton.delta.T], axis=1)
        return by_class[:, self.automaton.token_class]

    def _posterior(self, p: NDArray[np.float64], beta: NDArray[np.float64]) -> LogProbs:
        """(R, L, K) nats, each position's law given acceptance."""
        alpha, classes, result = self._begin(len(p)), self.automaton.classes(p), np.empty(p.shape)
        for i in range(p.shape[1]):
            result[:, i] = p[:, i] * self._reach(alpha, beta[:, i + 1])
            alpha = forward(alpha, classes[:, i], self.automaton.delta)
        with np.errstate(divide="ignore"):
            return normalised(np.log(result))


def _at(log_p: NDArray[np.float64], drawn: NDArray[np.int64]) -> LogW:
    return log_p[np.arange(len(drawn)), drawn]


def log_accepted(canvas: Canvas, constraint: TokenConstraint, rows: Rows) -> LogW:
    """(R,) nats, at most 0: the exact probability under the factorised denoiser that the finished text is accepted.

    -inf where no filling in of the canvas is accepted. The constraints of a run are met together or not at all: the
    first one answers for all of them, so that their levels add up to that of the joint automaton.
    """
    together = canvas.constraints if constraint in canvas.constraints else (constraint,)
    if constraint is not together[0]:
        return np.zeros(len(rows))
    automaton = compiled(canvas.vocabulary, together, canvas.tokens_now.shape[1])
    return automaton.backward(chances(canvas, rows))[1]
