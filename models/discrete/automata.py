"""Regular constraints on a canvas: the same automata as for language models, looked at from every position at once.

Under a denoiser whose positions are independent, the probability that the finished text is accepted, and the posterior
given that it is, are exact by forward-backward over positions and automaton states in O(L S K) (compare Suresh et al.
2025, "DINGO: constrained inference for diffusion LLMs", which takes the most likely completion).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feynkac.errors import ConstraintError, PotentialError
from feynkac.masks import TokenAutomaton, TokenConstraint
from feynkac.models.discrete.canvas import Canvas
from feynkac.models.discrete.denoiser import LogProbs, Tokens
from feynkac.models.discrete.draws import Draws
from feynkac.models.discrete.kernels import Uniform
from feynkac.models.discrete.proposals import log_ratio, normalised
from feynkac.smc.checks import name_of
from feynkac.smc.protocols import LogW, Mask, Rows
from feynkac.vocabulary import Vocabulary

MAX_STATES = 20_000
UNLIKELY = 1e-30
"""The least probability of a token at an open position, here only: what a denoiser thinks impossible now it may not
think so later, so that only the automaton itself may rule a canvas out."""
_FAINT = 1e-150


@dataclass(frozen=True)
class CanvasAutomaton:
    """S states over C classes of tokens; the last state is dead. What follows the end of a text is not looked at."""

    delta: NDArray[np.int64]
    """(S, C) next state."""
    accept: NDArray[np.bool_]
    """(S,) whether a canvas that ends here is accepted."""
    token_class: NDArray[np.int64]
    """(K,) the class of each token; tokens of one class have the same moves."""
    start: int = 0

    def classes(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R, L, C) probabilities of the classes from those of the tokens (R, L, K)."""
        member = np.zeros((len(self.token_class), self.delta.shape[1]))
        member[np.arange(len(member)), self.token_class] = 1.0
        return p @ member

    def backward(self, p: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(R, L + 1, S) probabilities of acceptance from each position and state, up to a factor for each position,
        and (R,) log-probabilities of acceptance in nats, for positions with the probabilities `p` (R, L, K).
        """
        return _backward(self.classes(p), self.delta, self.accept, self.start)

    def runs(self, tokens: Tokens) -> Mask:
        """(R,) whether finished canvases are accepted."""
        state = np.full(len(tokens), self.start)
        for column in self.token_class[tokens].T:
            state = self.delta[state, column]
        return self.accept[state]


@njit(cache=True)
def _backward(pc, delta, accept, start):
    n, length, classes = pc.shape
    states = len(delta)
    beta = np.zeros((n, length + 1, states))
    log_p = np.zeros(n)
    for r in range(n):
        for s in range(states):
            beta[r, length, s] = 1.0 if accept[s] else 0.0
        for i in range(length - 1, -1, -1):
            top = 0.0
            for c in range(classes):
                if pc[r, i, c] > 0.0:
                    for s in range(states):
                        beta[r, i, s] += pc[r, i, c] * beta[r, i + 1, delta[s, c]]
            for s in range(states):
                top = max(top, beta[r, i, s])
            if top == 0.0:
                break
            log_p[r] += np.log(top)
            for s in range(states):
                if beta[r, i, s] > 0.0:  # neither does a sum of positive terms underflow at the next position
                    beta[r, i, s] = max(beta[r, i, s] / top, _FAINT)
        log_p[r] += np.log(beta[r, 0, start]) if beta[r, 0, start] > 0.0 else -np.inf
    return beta, log_p


@njit(cache=True)
def _forward(alpha, pc, delta):
    """(R, S) the weights of the states one position on, scaled to a largest weight of 1."""
    after = np.zeros_like(alpha)
    for r in range(len(alpha)):
        top = 0.0
        for s in range(alpha.shape[1]):
            if alpha[r, s] > 0.0:
                for c in range(pc.shape[1]):
                    after[r, delta[s, c]] += alpha[r, s] * pc[r, c]
        for s in range(alpha.shape[1]):
            top = max(top, after[r, s])
        for s in range(alpha.shape[1]):
            if after[r, s] > 0.0:
                after[r, s] = max(after[r, s] / top, _FAINT)
    return after


def canvas_automaton(vocabulary: Vocabulary, constraints: Sequence[TokenConstraint], length: int) -> CanvasAutomaton:
    """All `constraints` at once, over the tokens of a canvas of `length` positions.

    Raises ConstraintError for more than MAX_STATES states.
    """
    automata = [constraint.automaton(vocabulary) for constraint in constraints]
    name = " * ".join(constraint.name for constraint in constraints)
    ends = np.isin(np.arange(vocabulary.size), vocabulary.eos)
    start = tuple(int(automaton.start) for automaton in automata)
    number: dict[tuple[int, ...], int] = {start: 0}
    moves, frontier = list[NDArray[np.int64]](), [start]
    for _ in range(length):
        if not frontier:
            break
        frontier = _explored(automata, frontier, np.flatnonzero(~ends), number, moves, vocabulary.size)
        if len(number) > MAX_STATES:
            raise ConstraintError(
                f"{name} needs more than {MAX_STATES} automaton states on a canvas of {length} tokens; use a simpler "
                "constraint, or a function: constraint(f)"
            )
    known = np.array(list(number), dtype=np.int64).reshape(len(number), -1)
    accept = np.all([automaton.accepts(known[:, i]) for i, automaton in enumerate(automata)], axis=0)
    ended, dead = len(number), len(number) + 1
    delta = np.full((dead + 1, vocabulary.size), dead)
    if moves:
        delta[: len(moves)] = np.where(np.array(moves) >= 0, moves, dead)
    delta[: len(number), ends] = np.where(accept, ended, dead)[:, None]
    delta[ended] = ended
    columns, token_class = np.unique(delta, axis=1, return_inverse=True)
    return CanvasAutomaton(np.ascontiguousarray(columns), np.r_[accept, True, False], token_class.reshape(-1))


def _explored(
    automata: Sequence[TokenAutomaton],
    frontier: list[tuple[int, ...]],
    tokens: NDArray[np.int64],
    number: dict[tuple[int, ...], int],
    moves: list[NDArray[np.int64]],
    size: int,
) -> list[tuple[int, ...]]:
    """Write the moves of the states of the `frontier`, and return the states seen for the first time."""
    states = np.array(frontier, dtype=np.int64).reshape(len(frontier), -1)
    after = np.stack(
        [
            automaton.advance(np.repeat(states[:, i], len(tokens)), np.tile(tokens, len(states)))
            for i, automaton in enumerate(automata)
        ],
        axis=1,
    ).reshape(len(states), len(tokens), -1)
    fresh = []
    for row in after:
        out = np.full(size, -1)
        for token, state in zip(tokens, map(tuple, row.tolist()), strict=True):
            if min(state) >= 0:
                if state not in number:
                    number[state] = len(number)
                    fresh.append(state)
                out[token] = number[state]
        moves.append(out)
    return fresh


def chances(canvas: Canvas, rows: Rows) -> NDArray[np.float64]:
    """(R, L, K) probabilities of the finished tokens, no token ruled out where its position may still change."""
    p = np.exp(canvas.clean(rows))
    hidden = canvas.tokens_now[rows] == canvas.k
    if isinstance(canvas.kernel, Uniform):
        return np.maximum(p, UNLIKELY)
    visible = _maybe_redrawn(p, canvas.kernel.redrawn(canvas.time))
    return np.where(hidden[..., None], np.maximum(p, UNLIKELY), np.where(canvas.free[:, None], visible, p))


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
            alpha = _forward(alpha, classes[:, i], automaton.delta)
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
            alpha = _forward(alpha, classes[:, i], self.automaton.delta)
        with np.errstate(divide="ignore"):
            return normalised(np.log(result))


def _at(log_p: NDArray[np.float64], drawn: NDArray[np.int64]) -> LogW:
    return log_p[np.arange(len(drawn)), drawn]


class Acceptance:
    """A constraint whose level foresees it: the exact log-probability of acceptance under the factorised denoiser."""

    hard = True

    def __init__(self, constraint: TokenConstraint) -> None:
        self.constraint, self.name = constraint, constraint.name
        self._automata: dict[tuple[int, int], tuple[Vocabulary, CanvasAutomaton]] = {}

    def automaton(self, vocabulary: Vocabulary) -> TokenAutomaton:
        """The constraint over the tokens of `vocabulary`, as the base has it."""
        return self.constraint.automaton(vocabulary)

    def level(self, t: int, state: Any, rows: Rows) -> LogW:
        """(R,) nats, at most 0; -inf where no filling in of the canvas is accepted."""
        return self._on(state).backward(chances(state, rows))[1]

    def final(self, state: Any, rows: Rows) -> LogW:
        """(R,) nats: 0 where the text is accepted, -inf elsewhere."""
        return np.where(self._on(state).runs(state.tokens_now[rows]), 0.0, -np.inf)

    def _on(self, state: Any) -> CanvasAutomaton:
        if not isinstance(state, Canvas):
            raise PotentialError(
                f"foreseen({name_of(self.constraint)}) looks at the canvas of a discrete diffusion, not at "
                f"{type(state).__name__}; give a language model the constraint itself"
            )
        vocabulary, length = state.vocabulary, state.tokens_now.shape[1]
        key = (id(vocabulary), length)
        if key not in self._automata:
            self._automata[key] = (vocabulary, canvas_automaton(vocabulary, [self.constraint], length))
        return self._automata[key][1]


def foreseen(constraint: TokenConstraint) -> Acceptance:
    """The same constraint for discrete diffusion, its probability of being met as the level on the way."""
    return Acceptance(constraint)
