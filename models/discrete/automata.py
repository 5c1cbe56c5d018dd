"""Regular constraints on a canvas: the same automata as for language models, looked at from every position at once.

Under a denoiser whose positions are independent, the probability that the finished text is accepted, and the posterior
given that it is, are exact by forward-backward over positions and automaton states in O(L S K) (compare Suresh et al.
2025, "DINGO: constrained inference for diffusion LLMs", which takes the most likely completion).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feynkac.base.arrays import read_truth_array, read_whole_array
from feynkac.base.capabilities import offers
from feynkac.base.contract import Mask
from feynkac.base.errors import ArgumentError, ConstraintError, quote
from feynkac.base.masks import TokenAutomaton, TokenConstraint
from feynkac.base.numbers import read_count, read_whole
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.discrete.denoiser import Tokens

MAX_STATES = 20_000
FAINT = 1e-150
_CELLS = 1 << 20
"""Moves that are asked for at once."""


@dataclass(frozen=True)
class CanvasAutomaton:
    """S states over C classes of tokens. What follows the end of a text is not looked at.

    Raises ArgumentError for shapes that do not fit, and for numbers of states and classes that there are not.
    """

    delta: NDArray[np.int64]
    """(S, C) next state."""
    accept: NDArray[np.bool_]
    """(S,) whether a canvas that ends here is accepted."""
    token_class: NDArray[np.int64]
    """(K,) the class of each token; tokens of one class have the same moves."""
    start: int = 0

    def __post_init__(self) -> None:
        delta = np.ascontiguousarray(read_whole_array("CanvasAutomaton: delta", self.delta))
        accept = read_truth_array("CanvasAutomaton: accept", self.accept)
        token_class = read_whole_array("CanvasAutomaton: token_class", self.token_class)
        start = read_whole("CanvasAutomaton: start", self.start, 0)
        if delta.ndim != 2 or not delta.size or accept.shape != delta.shape[:1] or token_class.ndim != 1:
            raise ArgumentError(
                f"CanvasAutomaton: delta has the shape {delta.shape}, accept {accept.shape} and token_class "
                f"{token_class.shape}; they are (S, C), (S,) and (K,)"
            )
        states, classes = delta.shape
        # Compiled code goes by these numbers, and does not look whether there are such rows.
        if not _lie_below(delta, states) or not _lie_below(token_class, classes) or start >= states:
            raise ArgumentError(
                f"CanvasAutomaton: states are numbered from 0 to {states - 1}, and classes of tokens from 0 to "
                f"{classes - 1}; others are among them"
            )
        for name, value in (("delta", delta), ("accept", accept), ("token_class", token_class), ("start", start)):
            object.__setattr__(self, name, value)

    def sum_classes(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R, L, C) probabilities of the classes from those of the tokens (R, L, K)."""
        member = np.zeros((len(self.token_class), self.delta.shape[1]))
        member[np.arange(len(member)), self.token_class] = 1.0
        return p @ member

    def find_classes(self, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """(..., C) 1 at the class of each of the `tokens`, and 0 elsewhere."""
        return (self.token_class[tokens][..., None] == np.arange(self.delta.shape[1])).astype(np.float64)

    def backward(self, p: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(R, L + 1, S) probabilities of acceptance from each position and state, up to a factor for each position,
        and (R,) log-probabilities of acceptance in nats, for positions with the probabilities `p` (R, L, K).
        """
        return self.look_back(self.sum_classes(p))

    def look_back(self, classes: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What `backward` gives, from the probabilities of the classes (R, L, C)."""
        return _backward(classes, self.delta, self.accept, self.start)

    @cached_property
    def share(self) -> NDArray[np.float64]:
        """(C,) the part of all tokens that is in each class."""
        return np.bincount(self.token_class, minlength=self.delta.shape[1]) / len(self.token_class)

    def accepts(self, tokens: Tokens) -> Mask:
        """(R,) whether finished canvases are accepted."""
        state = np.full(len(tokens), self.start)
        for column in self.token_class[tokens].T:
            state = self.delta[state, column]
        return self.accept[state]


def _lie_below(numbers: NDArray[np.int64], count: int) -> bool:
    return bool(((numbers >= 0) & (numbers < count)).all())


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

    Raises ConstraintError for more than MAX_STATES states, ArgumentError for what is no vocabulary or no constraint.
    """
    if not isinstance(vocabulary, Vocabulary) or not all(offers(each, TokenConstraint) for each in constraints):
        raise ArgumentError(
            f"build_automaton({quote(vocabulary)}, {quote(constraints)}): give a Vocabulary and a list of constraints, "
            "such as fk.regex(pattern)"
        )
    length = read_count("build_automaton: length", length)
    automata = [constraint.automaton(vocabulary) for constraint in constraints]
    name = " * ".join(constraint.name for constraint in constraints)
    ends = vocabulary.ends
    start = tuple(int(automaton.start) for automaton in automata)
    number: dict[tuple[int, ...], int] = {start: 0}
    moves = _Moves(ends)
    frontier = [start]
    for _ in range(length):
        if not frontier:
            break
        frontier = _explore(automata, frontier, np.flatnonzero(~ends), number, moves)
        if len(number) > MAX_STATES:
            raise ConstraintError(
                f"{name} needs more than {MAX_STATES} automaton states on a canvas of {length} tokens; use a simpler "
                "constraint, or a function: constraint(f)"
            )
    known = np.array(list(number), dtype=np.int64).reshape(len(number), -1)
    accept = np.all([automaton.accepts(known[:, i]) for i, automaton in enumerate(automata)], axis=0)
    ended, dead = len(number), len(number) + 1
    delta = np.full((dead + 1, moves.count), dead)
    for state, row in enumerate(moves.rows):
        delta[state] = np.where(row >= 0, row, dead)
    delta[: len(number), np.unique(moves.token_class[ends])] = np.where(accept, ended, dead)[:, None]
    delta[ended] = ended
    return _minimise(delta, np.r_[accept, True, False], moves.token_class)


class _Moves:
    """The moves of the states explored so far, over classes of tokens that all of these states take alike.

    So the table has as many columns as there are classes, few of them even where there are 50,000 tokens.
    """

    def __init__(self, ends: NDArray[np.bool_]) -> None:
        _, inverse = np.unique(ends, return_inverse=True)
        self.token_class = inverse.reshape(-1)
        self.count = int(self.token_class.max()) + 1
        self.rows: list[NDArray[np.int64]] = []

    def add(self, out: NDArray[np.int64]) -> None:
        """Append the moves (K,) of one more state, -1 where a token leads nowhere."""
        _, first, inverse = np.unique(
            self.token_class * (out.max() + 2) + out + 1, return_index=True, return_inverse=True
        )
        if len(first) > self.count:
            parent = self.token_class[first]
            self.rows = [row[parent] for row in self.rows]
            self.token_class, self.count = inverse.reshape(-1), len(first)
        row = np.empty(self.count, np.int64)
        row[self.token_class] = out
        self.rows.append(row)


def _minimise(delta: NDArray[np.int64], accept: NDArray[np.bool_], token_class: NDArray[np.int64]) -> CanvasAutomaton:
    """The smallest automaton that accepts the same from state 0, by Moore's refinement; equal tokens are one class.

    `delta` (S, C) is over classes already, to which the tokens belong by `token_class` (K,).
    """
    block, count = accept.astype(np.int64), 0
    while block.max() + 1 > count:
        count = int(block.max()) + 1
        _, block = np.unique(np.column_stack([block, block[delta]]), axis=0, return_inverse=True)
        block = block.reshape(-1)
    _, one_of = np.unique(block, return_index=True)
    columns, merged = np.unique(block[delta[one_of]], axis=1, return_inverse=True)
    token_class = merged.reshape(-1)[token_class]
    return CanvasAutomaton(np.ascontiguousarray(columns), accept[one_of], token_class, start=int(block[0]))


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
    moves: _Moves,
) -> list[tuple[int, ...]]:
    """Append to `moves` those of the states of the `frontier`, and return the states seen for the first time.

    Those are numbered in `number`.
    """
    fresh = []
    size = max(1, _CELLS // max(len(tokens), 1))
    for begin in range(0, len(frontier), size):
        states = np.array(frontier[begin : begin + size], dtype=np.int64).reshape(-1, len(automata))
        repeated, tiled = np.repeat(states, len(tokens), axis=0), np.tile(tokens, len(states))
        after = [automaton.advance(repeated[:, i], tiled) for i, automaton in enumerate(automata)]
        for row in np.stack(after, axis=1).reshape(len(states), len(tokens), -1):
            out = np.full(len(moves.token_class), -1)
            alive = np.flatnonzero((row >= 0).all(axis=1))
            one_of, kind = _group_rows(row[alive])
            named = list(map(tuple, row[alive][one_of].tolist()))
            fresh += [state for state in named if state not in number]
            for state in named:
                number.setdefault(state, len(number))
            out[tokens[alive]] = np.array([number[state] for state in named], dtype=np.int64)[kind]
            moves.add(out)
    return fresh


def _group_rows(table: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One row of each kind of the rows of `table` (M, A), by number, and (M,) the kind of each row."""
    kind = one_of = np.zeros(len(table), dtype=np.int64)
    for column in table.T:
        _, code = np.unique(column, return_inverse=True)
        pair = kind * (code.max(initial=0) + 1) + code.reshape(-1)
        _, one_of, kind = np.unique(pair, return_index=True, return_inverse=True)
        kind = kind.reshape(-1)
    return one_of, kind
