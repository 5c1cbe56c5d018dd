"""The probability that a canvas will meet a regular constraint, and the posterior given that it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import Ranks, has
from feynkac.base.contract import LogW, Mask, Rows
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.masks import States, TokenConstraint
from feynkac.models.discrete.automata import CanvasAutomaton, compile_constraints
from feynkac.models.discrete.canvas import Canvas
from feynkac.models.discrete.denoiser import LogProbs, Tokens
from feynkac.models.discrete.draws import Draws
from feynkac.models.discrete.messages import ChainedMessages, FactorisedMessages, Messages, mix_redraws
from feynkac.models.discrete.proposals import log_ratio, normalise
from feynkac.models.discrete.ranked import Ranking, Tilt, draw_ranked

UNLIKELY = 1e-30
"""The least probability of a token at an open position, here only: what a denoiser thinks impossible now it may not
think so later, so that only the automaton itself may rule a canvas out."""


def find_chances(canvas: Canvas, rows: Rows) -> NDArray[np.float64]:
    """(R, L, K) probabilities of the finished tokens; no token is ruled out where its position may still change."""
    p = np.exp(canvas.clean(rows))
    hidden = canvas.tokens_now[rows] == canvas.k
    if not canvas.kernel.hides:
        return np.maximum(p, UNLIKELY)
    visible = mix_redraws(p, canvas.kernel.redraw_chance(canvas.time))
    return np.where(hidden[..., None], np.maximum(p, UNLIKELY), np.where(canvas.free[rows][..., None], visible, p))


def find_class_chances(automaton: CanvasAutomaton, canvas: Canvas, rows: Rows) -> NDArray[np.float64]:
    """(R, L, C) probabilities of the classes of the finished tokens, of a canvas whose denoiser `Ranks`.

    What is not among the likeliest counts as spread evenly over all tokens.
    """
    law, hidden = canvas.ranking(rows), canvas.find_hidden(rows)
    stays = automaton.find_classes(np.where(hidden, 0, canvas.tokens_now[rows]))
    chance = canvas.kernel.redraw_chance(canvas.time)
    result = np.where(canvas.free[rows][..., None], (1.0 - chance) * stays + chance * automaton.share, stays)
    opened = law[hidden]
    n, c = len(opened.tokens), len(automaton.share)
    cells = np.arange(n)[:, None] * c + automaton.token_class[opened.tokens]
    near = np.bincount(cells.ravel(), np.exp(opened.log_p).ravel(), n * c).reshape(n, c)
    spread = near + np.exp(opened.log_rest)[:, None] * automaton.share
    result[hidden] = np.maximum(spread, UNLIKELY * canvas.k * automaton.share)
    return result


def find_messages(
    automaton: CanvasAutomaton, canvas: Canvas, rows: Rows, going: Mask | None = None, redraw_chance: float = 0.0
) -> Messages:
    """The messages of `rows`; at the positions `going` (R, L), which are being masked again, any token may stand.

    `redraw_chance`: the probability that a token drawn in this step is masked again before the end. What a denoiser
    tells of neighbours (`RelatesNeighbours`) is used where tokens stay once they are shown.
    """
    if has(canvas.outputs.denoiser, Ranks):
        classes = find_class_chances(automaton, canvas, rows)
        if going is not None:
            classes[going] = automaton.share
        return FactorisedMessages(automaton, classes, redraw_chance)
    p = find_chances(canvas, rows)
    if going is not None:
        p[going] = 1.0 / canvas.k
    pairs = canvas.pairs(rows)
    if pairs is None:
        return FactorisedMessages(automaton, automaton.sum_classes(p), redraw_chance)
    hidden = canvas.tokens_now[rows, 1:] == canvas.k
    return ChainedMessages(
        automaton, p[:, 0], np.where(hidden[..., None, None], np.maximum(np.exp(pairs), UNLIKELY), p[:, 1:, None])
    )


class AutomatonGuided:
    """Draws the values of a step from the denoiser's posterior given that the finished text is accepted.

    Where a step draws clean tokens they are drawn jointly, from left to right, exactly; in the middle of uniform
    diffusion each position follows its own constrained posterior. Raises ArgumentError.
    """

    def __init__(self, automaton: CanvasAutomaton) -> None:
        if not isinstance(automaton, CanvasAutomaton):
            raise ArgumentError(
                f"AutomatonGuided({quote(automaton)}): give a CanvasAutomaton, as build_automaton makes"
            )
        self.automaton = automaton

    def draw(self, t: int, canvas: Canvas, rows: Rows, moved: Mask, law: LogProbs, draws: Draws) -> tuple[Tokens, LogW]:
        going = moved & (law[..., canvas.k] == 0.0) if law.shape[-1] > canvas.k else None
        reveals = canvas.kernel.reveals(t)
        known = find_messages(
            self.automaton, canvas, rows, going, canvas.kernel.redraw_chance(t + 1) if reveals else 0.0
        )
        if reveals:
            tokens = canvas.tokens_now[rows].copy()
            return tokens, _draw_jointly(tokens, moved, canvas.k, known, _OfAll(law, known, draws, canvas.k))
        assert isinstance(known, FactorisedMessages)
        tokens = canvas.tokens_now[rows].copy()
        with np.errstate(divide="ignore"):
            log_q = canvas.kernel.law(t, tokens, normalise(np.log(known.posterior(find_chances(canvas, rows)))))
        log_q = np.where(_find_lost(known)[:, None, None], law, log_q)
        draws.fill(tokens, moved, log_q)
        return tokens, log_ratio(law, log_q, tokens, moved)

    def draw_ranked(self, t: int, canvas: Canvas, rows: Rows, moved: Mask, draws: Draws) -> tuple[Tokens, LogW]:
        """See `feynkac.base.capabilities.DrawsRanked`."""
        opened = moved & canvas.find_hidden(rows)
        going = moved & ~opened
        known = find_messages(self.automaton, canvas, rows, going, canvas.kernel.redraw_chance(t + 1))
        assert isinstance(known, FactorisedMessages)
        tokens = canvas.tokens_now[rows].copy()
        tokens[going] = canvas.k
        return tokens, _draw_jointly(
            tokens, opened, canvas.k, known, _OfLikeliest(canvas, rows, canvas.ranking(rows), known, draws)
        )


class _Choice(Protocol):
    """How the token of one position is drawn, given what stands before it."""

    def draw(self, i: int, asked: Rows, alpha: NDArray[np.float64]) -> tuple[Rows, LogW]:
        """(A,) tokens of position `i` of the rows `asked`, and (A,) log p - log q in nats."""
        ...


@dataclass(frozen=True)
class _OfAll:
    """From a table of all tokens, and of the mask."""

    law: LogProbs
    known: Messages
    draws: Draws
    k: int

    def draw(self, i: int, asked: Rows, alpha: NDArray[np.float64]) -> tuple[Rows, LogW]:
        log_p, k = self.law[asked, i], self.k
        q = np.exp(log_p)
        possible = q[:, :k].sum(axis=1, keepdims=True) > 0.0
        q[:, :k] = np.where(possible, np.maximum(q[:, :k], UNLIKELY), 0.0)
        guided = np.where(possible, self.known.weights(alpha, i, asked, q[:, :k]), 0.0)
        q[:, :k] = np.where(_find_lost(self.known)[asked, None], q[:, :k], guided)
        with np.errstate(divide="ignore"):
            log_q = normalise(np.log(q))
        drawn = self.draws.categorical(log_q, asked)
        return drawn, _pick(log_p, drawn) - _pick(log_q, drawn)


@dataclass(frozen=True)
class _OfLikeliest:
    """From the likeliest tokens of each position."""

    canvas: Canvas
    rows: Rows
    law: Ranking
    known: FactorisedMessages
    draws: Draws

    def draw(self, i: int, asked: Rows, alpha: NDArray[np.float64]) -> tuple[Rows, LogW]:
        automaton, rows = self.known.automaton, self.rows[asked]
        factor = self.known.weigh_classes(alpha, i, asked)
        factor[_find_lost(self.known)[asked]] = 1.0
        tilt = Tilt(factor, automaton.token_class, automaton.share)

        def look(others: Rows) -> LogProbs:
            return self.canvas.look_again(rows[others], np.full(len(others), i))

        return draw_ranked(self.law[asked, i], look, asked, self.draws, tilt)


def _draw_jointly(tokens: Tokens, moved: Mask, k: int, known: Messages, choice: _Choice) -> LogW:
    """Write values of the `moved` positions into `tokens` (R, L), from left to right; (R,) log p - log q in nats."""
    inc = np.zeros(len(tokens))
    alpha = known.begin()
    for i in range(tokens.shape[1]):
        asked = np.flatnonzero(moved[:, i])
        drawn, ratio = choice.draw(i, asked, alpha)
        tokens[asked, i] = drawn
        inc[asked] += ratio
        # Not a mask, which stands for any token and shows none.
        shown = drawn < k
        known.show(i, asked[shown], drawn[shown])
        alpha = known.advance(alpha, i)
    return inc


def _find_lost(known: Messages) -> Mask:
    """(R,) rows that no proposal can help: they follow p to their end."""
    return known.log_accepted == -np.inf


def _pick(log_p: NDArray[np.float64], drawn: NDArray[np.int64]) -> LogW:
    return log_p[np.arange(len(drawn)), drawn]


def follow_texts(canvas: Canvas, constraint: TokenConstraint, rows: Rows) -> States:
    """(R,) automaton states after the texts of finished rows; the start state, no promise, of the others."""
    automaton = constraint.automaton(canvas.vocabulary)
    states = np.full(len(rows), automaton.start, dtype=np.int64)
    done = np.flatnonzero(canvas.done()[rows])
    texts = canvas.tokens(rows[done])
    for i in range(max(map(len, texts), default=0)):
        here = [k for k, row in enumerate(done) if i < len(texts[k]) and states[row] >= 0]
        states[done[here]] = automaton.advance(states[done[here]], np.array([texts[k][i] for k in here], np.int64))
    return states


def log_accepted(canvas: Canvas, constraint: TokenConstraint, rows: Rows) -> LogW:
    """(R,) nats, at most 0: the exact probability under the denoiser that the finished text is accepted.

    -inf where no filling in of the canvas is accepted. The constraints of a run are met together or not at all: the
    first one answers for all of them, so that their levels add up to that of the joint automaton.
    """
    together = canvas.constraints if constraint in canvas.constraints else (constraint,)
    if constraint is not together[0]:
        return np.zeros(len(rows))
    automaton = compile_constraints(canvas.vocabulary, together, canvas.tokens_now.shape[1])
    return find_messages(automaton, canvas, rows).log_accepted
