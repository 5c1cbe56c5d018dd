"""Messages of an automaton over a canvas: from the left where it may be, from the right whether it can accept.

With them the law of a text given that it is accepted is drawn from left to right, exactly for what the denoiser says:
positions independent of each other (`FactorisedMessages`), or each dependent on the one before (`ChainedMessages`).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW, Rows
from feynkac.models.discrete.automata import FAINT, CanvasAutomaton, forward

Floats = NDArray[np.float64]


class Messages(Protocol):
    """The automaton's way through R canvases, as far as it is known."""

    log_accepted: LogW
    """(R,) nats, the log-probability that the finished text is accepted."""

    def begin(self) -> Floats:
        """The weights of where a canvas may stand before its first position: `alpha` of the methods below."""
        ...

    def weights(self, alpha: Floats, i: int, asked: Rows, p: Floats) -> Floats:
        """(A, K) weights of each token at position `i` of the rows `asked` given acceptance; `p` (A, K) is its law."""
        ...

    def show(self, i: int, rows: Rows, tokens: Rows) -> None:
        """At position `i` of `rows` the `tokens` (A,) have been drawn."""
        ...

    def advance(self, alpha: Floats, i: int) -> Floats:
        """The weights after position `i`."""
        ...


class FactorisedMessages:
    """Positions independent of each other, with probabilities `classes` (R, L, C) of tokens. `alpha` is (R, S).

    `redraw_chance`: the probability that a token drawn now is replaced by another one before the end.
    """

    def __init__(self, automaton: CanvasAutomaton, classes: Floats, redraw_chance: float = 0.0) -> None:
        self.automaton = automaton
        self.redraw_chance = redraw_chance
        self._classes = classes
        self._beta, self.log_accepted = automaton.look_back(classes)

    def begin(self) -> Floats:
        alpha = np.zeros((len(self._classes), len(self.automaton.delta)))
        alpha[:, self.automaton.start] = 1.0
        return alpha

    def weights(self, alpha: Floats, i: int, asked: Rows, p: Floats) -> Floats:
        return p * self.weigh_classes(alpha, i, asked)[:, self.automaton.token_class]

    def weigh_classes(self, alpha: Floats, i: int, asked: Rows) -> Floats:
        """(A, C) the factor of each class of tokens at position `i` of the rows `asked`, given acceptance."""
        beta, alpha = self._beta[asked, i + 1], alpha[asked]
        reached = np.stack([(alpha * beta[:, after]).sum(axis=1) for after in self.automaton.delta.T], axis=1)
        mean = (reached @ self.automaton.share)[:, None]
        return (1.0 - self.redraw_chance) * reached + self.redraw_chance * mean

    def show(self, i: int, rows: Rows, tokens: Rows) -> None:
        stays = self.automaton.find_classes(tokens)
        self._classes[rows, i] = (1.0 - self.redraw_chance) * stays + self.redraw_chance * self.automaton.share

    def advance(self, alpha: Floats, i: int) -> Floats:
        return forward(alpha, self._classes[:, i], self.automaton.delta)

    def posterior(self, p: Floats) -> Floats:
        """(R, L, K) weights of the tokens of each position by itself given acceptance, by the laws `p` (R, L, K)."""
        alpha = self.begin()
        result = np.empty(p.shape)
        every = np.arange(len(p))
        for i in range(p.shape[1]):
            result[:, i] = self.weights(alpha, i, every, p[:, i])
            alpha = self.advance(alpha, i)
        return result


class ChainedMessages:
    """Each position dependent on the one before it. `alpha` (R, S, K) is over states and last tokens.

    `first` (R, K) are the probabilities of the first token, `pairs` (R, L - 1, K, K) those of a token (last index)
    given the one before it, both given the canvas.
    """

    def __init__(self, automaton: CanvasAutomaton, first: Floats, pairs: Floats) -> None:
        self._after = automaton.delta[:, automaton.token_class]  # (S, K)
        n, k = first.shape
        self._start = automaton.start
        self._token = np.arange(k)
        # Before the first position stands token 0, whatever it is.
        self._pairs = np.concatenate([np.broadcast_to(first[:, None, None], (n, 1, k, k)), pairs], axis=1)
        beta = np.broadcast_to(automaton.accept[:, None].astype(np.float64), (n, *self._after.shape))
        self._beta = [beta]
        self.log_accepted = np.zeros(n)
        for i in reversed(range(self._pairs.shape[1])):
            before, log_top = _rescale(self._look_ahead(self._beta[-1]) @ self._pairs[:, i].swapaxes(1, 2))
            self._beta.append(before)
            self.log_accepted += log_top
        self._beta.reverse()
        with np.errstate(divide="ignore"):
            self.log_accepted += np.log(self._beta[0][:, self._start, 0])

    def _look_ahead(self, beta: Floats) -> Floats:
        """(R, S, K) the `beta` (R, S, K) where each token leads from each state."""
        return beta[:, self._after, self._token]

    def begin(self) -> Floats:
        alpha = np.zeros(self._beta[0].shape)
        alpha[:, self._start, 0] = 1.0
        return alpha

    def weights(self, alpha: Floats, i: int, asked: Rows, p: Floats) -> Floats:
        return (alpha[asked] @ self._pairs[asked, i] * self._look_ahead(self._beta[i + 1][asked])).sum(axis=1)

    def show(self, i: int, rows: Rows, tokens: Rows) -> None:
        self._pairs[rows, i] *= tokens[:, None, None] == self._token

    def advance(self, alpha: Floats, i: int) -> Floats:
        reached = alpha @ self._pairs[:, i]
        after = np.zeros(alpha.shape)
        for s, there in enumerate(self._after):
            after[:, there, self._token] += reached[:, s]
        return _rescale(after)[0]


def mix_redraws(p: Floats, chance: float) -> Floats:
    """The probabilities (..., K) if, with probability `chance`, any token at all takes the place of the one drawn."""
    return (1.0 - chance) * p + chance / p.shape[-1]


def _rescale(x: Floats) -> tuple[Floats, LogW]:
    """(R, S, K) scaled to a largest entry of 1, positive ones kept positive, and (R,) the log of the factor."""
    top = x.max(axis=(1, 2))
    with np.errstate(divide="ignore"):
        log_top = np.log(top)
    scaled = x / np.where(top > 0.0, top, 1.0)[:, None, None]
    return np.where(x > 0.0, np.maximum(scaled, FAINT), 0.0), log_top
