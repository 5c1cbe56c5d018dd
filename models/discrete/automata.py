"""Regular constraints on a canvas: the same automata as for language models, looked at from every position at once.

Under a denoiser whose positions are independent, the probability that the finished text is accepted, and the posterior
given that it is, are exact by forward-backward over positions and automaton states in O(L S K) (compare Suresh et al.
2025, "DINGO: constrained inference for diffusion LLMs", which takes the most likely completion).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feynkac.base.contract import Mask
from feynkac.base.errors import ConstraintError
from feynkac.base.masks import TokenAutomaton, TokenConstraint
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.discrete.denoiser import Tokens

MAX_STATES = 20_000
FAINT = 1e-150


@dataclass(frozen=True)
class CanvasAutomaton:
    """S states over C classes of tokens. What follows the end of a text is not looked at."""

    delta: NDArray[np.int64]
    """(S, C) next state."""
    accept: NDArray[np.bool_]
    """(S,) whether a canvas that ends here is accepted."""
    token_class: NDArray[np.int64]
    """(K,) the class of each token; tokens of one class have the same moves."""
    start: int = 0

    def sum_classes(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R, L, C) probabilities of the classes from those of the tokens (R, L, K)."""
        member = np.zeros((len(self.token_class), self.delta.shape[1]))
        member[np.arange(len(member)), self.token_class] = 1.0
        return p @ member

    def backward(self, p: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(R, L + 1, S) probabilities of acceptance from each position and state, up to a factor for each position,
        and (R,) log-probabilities of acceptance in nats, for positions with the probabilities `p` (R, L, K).
        """
        return _backward(self.sum_classes(p), self.delta, self.accept, self.start)

    def accepts(self, tokens: Tokens) -> Mask:
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
                    beta[r, i, s] = max(beta[r, i, s] / top, FAINT)
        log_p[r] += np.log(beta[r, 0, start]) if beta[r, 0, start] > 0.0 else -np.inf
    return beta, log_p


@njit(cache=True)
def forward(alpha, pc, delta):
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
                after[r, s] = max(after[r, s] / top, FAINT)
    return after


def build_automaton(vocabulary: Vocabulary, constraints: Sequence[TokenConstraint], length: int) -> CanvasAutomaton:
    """The automaton of all `constraints` at once, over the tokens of a canvas of `length` positions.

    Raises ConstraintError for more than MAX_STATES states.
    """
    automata = [constraint.automaton(vocabulary) for constraint in constraints]
    name = " * ".join(constraint.name for constraint in constraints)
    ends = vocabulary.ends
    start = tuple(int(automaton.start) for automaton in automata)
    number: dict[tuple[int, ...], int] = {start: 0}
    moves: list[NDArray[np.int64]] = []
    frontier = [start]
    for _ in range(length):
        if not frontier:
            break
        frontier = _explore(automata, frontier, np.flatnonzero(~ends), number, moves, vocabulary.size)
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
    return _minimise(delta, np.r_[accept, True, False])


def _minimise(delta: NDArray[np.int64], accept: NDArray[np.bool_]) -> CanvasAutomaton:
    """The smallest automaton that accepts the same from state 0, by Moore's refinement; equal tokens are one class."""
    block, count = accept.astype(np.int64), 0
    while block.max() + 1 > count:
        count = int(block.max()) + 1
        _, block = np.unique(np.column_stack([block, block[delta]]), axis=0, return_inverse=True)
        block = block.reshape(-1)
    _, one_of = np.unique(block, return_index=True)
    columns, token_class = np.unique(block[delta[one_of]], axis=1, return_inverse=True)
    return CanvasAutomaton(np.ascontiguousarray(columns), accept[one_of], token_class.reshape(-1), start=int(block[0]))


@lru_cache(maxsize=16)
def compile_constraints(
    vocabulary: Vocabulary, constraints: tuple[TokenConstraint, ...], length: int
) -> CanvasAutomaton:
    """`build_automaton`, remembered for the last few constraints: every run and every step asks for it anew."""
    return build_automaton(vocabulary, constraints, length)


def _explore(
    automata: Sequence[TokenAutomaton],
    frontier: list[tuple[int, ...]],
    tokens: NDArray[np.int64],
    number: dict[tuple[int, ...], int],
    moves: list[NDArray[np.int64]],
    size: int,
) -> list[tuple[int, ...]]:
    """Append to `moves` those of the states of the `frontier`, and return the states seen for the first time.

    Those are numbered in `number`.
    """
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
