"""Proposals: they draw the new values of the positions that a step has chosen, and say log p - log q of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import DrawsRanked, offers, require
from feynkac.base.contract import LogW, Mask, Potential, Rows
from feynkac.base.errors import ArgumentError, ModelError, quote
from feynkac.base.numbers import read_finite, read_positive, read_whole
from feynkac.models.discrete.canvas import Canvas
from feynkac.models.discrete.denoiser import LogProbs, Tokens
from feynkac.models.discrete.draws import Draws
from feynkac.models.discrete.ranked import NUMBERS, draw_ranked
from feynkac.smc.checks import name_of


@runtime_checkable
class Proposal(Protocol):
    """Draws the new values of a step, properly weighted, or says that it does not (`Biased`)."""

    def draw(self, t: int, canvas: Canvas, rows: Rows, moved: Mask, law: LogProbs, draws: Draws) -> tuple[Tokens, LogW]:
        """(R, L) the tokens of `rows` after step `t`, and (R,) log p - log q in nats.

        `moved` (R, L) are the positions to redraw, each by its `law` (R, L, C) under p.
        """
        ...


class Base:
    """The model's own step: q = p."""

    def draw(self, t: int, canvas: Canvas, rows: Rows, moved: Mask, law: LogProbs, draws: Draws) -> tuple[Tokens, LogW]:
        tokens = canvas.tokens_now[rows].copy()
        draws.fill(tokens, moved, law)
        return tokens, np.zeros(len(rows))

    def draw_ranked(self, t: int, canvas: Canvas, rows: Rows, moved: Mask, draws: Draws) -> tuple[Tokens, LogW]:
        """See `feynkac.base.capabilities.DrawsRanked`."""
        tokens, opened = canvas.tokens_now[rows].copy(), moved & canvas.find_hidden(rows)
        tokens[moved & ~opened] = canvas.k
        law = canvas.ranking(rows)
        for asked, places in draws.each(opened, NUMBERS):
            look = partial(_look_again, canvas, rows[asked], places)
            tokens[asked, places], _ = draw_ranked(law[asked, places], look, asked, draws)
        return tokens, np.zeros(len(rows))


class Unweighted:
    """BIASED: what another proposal draws, with no weight for it: guidance as it is usually done, to compare with.

    The target is then no longer p(x) exp(final(x)), at any number of particles, and the evidence is not that of p.
    """

    biased = True

    def __init__(self, proposal: Proposal) -> None:
        if not offers(proposal, Proposal):
            raise ArgumentError(f"Unweighted({quote(proposal)}): give a proposal, such as LocallyOptimal(potential)")
        self.proposal = proposal

    def draw(self, t: int, canvas: Canvas, rows: Rows, moved: Mask, law: LogProbs, draws: Draws) -> tuple[Tokens, LogW]:
        return self.proposal.draw(t, canvas, rows, moved, law, draws)[0], np.zeros(len(rows))

    def draw_ranked(self, t: int, canvas: Canvas, rows: Rows, moved: Mask, draws: Draws) -> tuple[Tokens, LogW]:
        """See `feynkac.base.capabilities.DrawsRanked`. Raises ModelError where the other proposal has it not."""
        return find_ranked_draw(self.proposal)(t, canvas, rows, moved, draws)[0], np.zeros(len(rows))


def find_ranked_draw(proposal: Proposal) -> Callable[..., tuple[Tokens, LogW]]:
    """How a proposal draws from the likeliest tokens of each position. Raises ModelError for one that needs all."""
    message = (
        f"{type(proposal).__name__} needs the probabilities of all tokens, and the model keeps the likeliest only; "
        "ask for all of them, as by MaskedLM(..., top=None), or take Base or AutomatonGuided"
    )
    return require(proposal, DrawsRanked, message, ModelError).draw_ranked


def _look_again(canvas: Canvas, rows: Rows, places: Rows, asked: Rows) -> LogProbs:
    return canvas.look_again(rows[asked], places[asked])


TokenScorer: TypeAlias = Callable[[Canvas, Rows, Mask], NDArray[np.float64]]
"""(canvas, rows, moved) -> (R, L, K) nats: how much better the sequence gets with each token at each moved position."""


class FirstOrder:
    """Positions apart from each other, q(v) in proportion to p(v) exp(score of v).

    With the gradient of log psi at the denoised estimate this is the first-order approximation of the locally optimal
    proposal (Pani et al. 2025, "Test-time alignment of discrete diffusion models with sequential Monte Carlo").
    `trust`: scores are cut to within so many nats of the average score of their position, for a proposal with lighter
    tails than the law would give unbounded weights. Raises ArgumentError.
    """

    def __init__(self, scorer: TokenScorer, *, trust: float = 5.0) -> None:
        if isinstance(scorer, type) or not callable(scorer):
            raise ArgumentError(f"FirstOrder({quote(scorer)}): give a scorer, such as by_difference(potential)")
        self.scorer = scorer
        self.trust = read_positive("FirstOrder: trust", trust, ", in nats")

    def draw(self, t: int, canvas: Canvas, rows: Rows, moved: Mask, law: LogProbs, draws: Draws) -> tuple[Tokens, LogW]:
        scores = np.zeros(law.shape)
        scores[..., : canvas.k] = self._scores(canvas, rows, moved)
        log_q = normalise(law + scores)
        tokens = canvas.tokens_now[rows].copy()
        draws.fill(tokens, moved, log_q)
        return tokens, log_ratio(law, log_q, tokens, moved)

    def _scores(self, canvas: Canvas, rows: Rows, moved: Mask) -> NDArray[np.float64]:
        given = self.scorer(canvas, rows, moved)
        scores = read_nats(f"scorer '{name_of(self.scorer)}'", given)
        shape = (len(rows), canvas.tokens_now.shape[1], canvas.k)
        name = name_of(self.scorer)
        if scores.shape != shape:
            raise ModelError(f"scorer '{name}' returned shape {scores.shape}, not {shape} (rows, positions, tokens)")
        if not np.isfinite(scores).all():
            row = int(rows[np.argwhere(~np.isfinite(scores))[0, 0]])
            raise ModelError(f"scorer '{name}' returned a score that is not finite for row {row}; cut scores off")
        return np.clip(scores - scores.mean(axis=-1, keepdims=True), -self.trust, self.trust)


_SUSPENDED = 30.0
"""Nats by which a value is disfavoured while it is not certain that it is impossible."""


class LocallyOptimal:
    """q(v) in proportion to p(v) psi(the canvas with v), one moved position after the other.

    psi is exp(level) of a potential, asked about every value of every moved position: for small K and few positions a
    step. With one position a step the weight no longer depends on the value drawn (Doucet, Godsill, Andrieu 2000,
    proposition 2). The potential must not draw completions, and must weigh in the run as well if it forbids anything:
    what is never drawn has no weight. Raises ArgumentError for what is no potential.
    """

    def __init__(self, potential: Potential) -> None:
        if not offers(potential, Potential):
            raise ArgumentError(f"LocallyOptimal({quote(potential)}): give a potential, such as fk.reward(f)")
        self.potential = potential

    def draw(self, t: int, canvas: Canvas, rows: Rows, moved: Mask, law: LogProbs, draws: Draws) -> tuple[Tokens, LogW]:
        tokens = canvas.tokens_now[rows].copy()
        inc = np.zeros(len(rows))
        left = moved.sum(axis=1)
        for chosen, places in draws.each(moved):
            log_p = law[chosen, places]
            log_q = log_p + self._levels(t, canvas, rows[chosen], tokens[chosen], places, log_p > -np.inf)
            left[chosen] -= 1
            # psi may be -inf only because the other positions are still to move: no value may be excluded for that.
            lowest = np.where(left[chosen] > 0, log_q.max(axis=1) - _SUSPENDED, -np.inf)[:, None]
            log_q = np.maximum(log_q, np.where(log_p > -np.inf, lowest, -np.inf))
            # A dead end, every value of which psi forbids, is left to the engine: it draws by p, and dies.
            log_q = normalise(np.where((log_q > -np.inf).any(axis=1, keepdims=True), log_q, log_p))
            drawn = draws.categorical(log_q, chosen)
            tokens[chosen, places] = drawn
            row = np.arange(len(chosen))
            inc[chosen] += log_p[row, drawn] - log_q[row, drawn]
        return tokens, inc

    def _levels(
        self, t: int, canvas: Canvas, rows: Rows, tokens: Tokens, places: Rows, possible: Mask
    ) -> NDArray[np.float64]:
        """(A, C) log psi of the canvases with each value at the place of each row; 0 for impossible values."""
        which, values = np.nonzero(possible)
        written = tokens[which]
        written[np.arange(len(which)), places[which]] = values
        child = canvas.fork(rows[which])
        outputs = child.outputs.drop_stale(np.ones(len(which), dtype=np.bool_))
        child = replace(child, tokens_now=written, time=t + 1, outputs=outputs)
        done = child.done()
        running, ended = np.flatnonzero(~done), np.flatnonzero(done)
        levels = np.zeros(len(which))
        if len(running):
            levels[running] = self.potential.level(t, child, running)
        if len(ended):
            levels[ended] = self.potential.final(child, ended)
        result = np.zeros(possible.shape)
        result[which, values] = levels
        return result


def read_nats(who: str, given: Any) -> NDArray[np.float64]:
    """What code of a user's returned as an array. Raises ModelError for what are no real numbers."""
    try:
        found = np.asarray(given)
        if found.dtype.kind in "iuf" and not np.ma.is_masked(given):
            return found.astype(np.float64)
    except Exception as cause:
        raise ModelError(f"{who} returned {quote(given)}; return an array of nats") from cause
    raise ModelError(f"{who} returned {quote(given)}; return an array of nats")


def normalise(log_p: LogProbs) -> LogProbs:
    """The same laws (..., C) with total 1, in nats."""
    top = log_p.max(axis=-1, keepdims=True)
    shifted = log_p - np.where(top == -np.inf, 0.0, top)
    with np.errstate(divide="ignore"):
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def log_ratio(law: LogProbs, log_q: LogProbs, tokens: Tokens, moved: Mask) -> LogW:
    """(R,) log p - log q of the `tokens` (R, L) drawn at the `moved` positions."""
    rows, places = np.nonzero(moved)
    drawn = tokens[rows, places]
    inc = np.zeros(len(tokens))
    np.add.at(inc, rows, law[rows, places, drawn] - log_q[rows, places, drawn])
    return inc


def by_gradient(reward: Callable[[Any], Any], scale: float = 1.0) -> TokenScorer:
    """Scores from the gradient of a differentiable reward at the expected completion.

    `reward`: torch (R, L, K) probabilities, float64 -> (R,) numbers; also of one-hot sequences, if it is to be the
    reward that `final` uses. No gradient passes through the denoiser: that is cheap, and the weight corrects for it.

    Raises ArgumentError for what is no function, and for a scale that is no number.
    """
    if isinstance(reward, type) or not callable(reward):
        raise ArgumentError(f"by_gradient({quote(reward)}): give a function of (R, L, K) probabilities")
    factor = read_finite("by_gradient: scale", scale)

    def by_gradient(canvas: Canvas, rows: Rows, moved: Mask) -> NDArray[np.float64]:
        import torch

        with torch.enable_grad():
            p = torch.from_numpy(np.exp(canvas.clean(rows))).requires_grad_()
            value = reward(p)
            if not isinstance(value, torch.Tensor) or value.shape != (len(rows),) or not value.requires_grad:
                found = tuple(value.shape) if isinstance(value, torch.Tensor) else value
                raise ModelError(
                    f"the reward of by_gradient returned {type(value).__name__} {found}; "
                    f"return a differentiable tensor of {len(rows)} rewards, or use by_difference"
                )
            (gradient,) = torch.autograd.grad(value.sum(), p)
        return factor * gradient.numpy()

    return by_gradient


def by_difference(potential: Potential, *, worst: float = -10.0, top: int | None = None) -> TokenScorer:
    """Scores from the potential's final value of the denoised estimate with one token exchanged.

    No network runs, but the potential is asked about K sequences for each moved position, or about those with the `top`
    likeliest tokens. `worst`: the score in nats of a sequence without mass, and of one that is not asked about; it only
    guides, so that it need not be -inf. Raises ArgumentError.
    """
    if not offers(potential, Potential):
        raise ArgumentError(f"by_difference({quote(potential)}): give a potential, such as fk.reward(f)")
    lowest = read_finite("by_difference: worst", worst, " of nats")
    most = None if top is None else read_whole("by_difference: top", top, 1, ", or None for all")

    def by_difference(canvas: Canvas, rows: Rows, moved: Mask) -> NDArray[np.float64]:
        which, places = np.nonzero(moved)
        scores = np.zeros((*moved.shape, canvas.k))
        if len(which):
            likeliest = np.argsort(-canvas.log_probs(rows)[which, places], axis=1, kind="stable")[:, :most]
            count = likeliest.shape[1]
            tokens = np.repeat(canvas.estimate_clean(rows)[which], count, axis=0)
            tokens[np.arange(len(tokens)), np.repeat(places, count)] = likeliest.ravel()
            completed = canvas.complete(np.repeat(rows[which], count), tokens)
            values = np.maximum(potential.final(completed, np.arange(len(tokens))), lowest)
            found = np.full((len(which), canvas.k), lowest)
            np.put_along_axis(found, likeliest, values.reshape(likeliest.shape), axis=1)
            scores[which, places] = found
        return scores

    return by_difference
