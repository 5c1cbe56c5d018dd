"""A denoiser that needs no network: the exact posterior of a Markov chain seen through noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arrays import read_array
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_flag, read_share
from feynkac.models.discrete.denoiser import LogProbs, Tokens
from feynkac.models.discrete.schedules import Schedule, linear


class ChainDenoiser:
    """p(x_0 at each position | canvas) for a Markov chain of `initial` (K,) and `transition` (K, K) probabilities.

    Masks (token K) tell nothing; with `uniform` noise a token is the clean one with probability alpha(t) and any of
    the K otherwise. Exact by forward-backward. Raises ArgumentError for shapes that do not fit, and for rows that are
    no probabilities.
    """

    def __init__(
        self,
        initial: NDArray[np.float64],
        transition: NDArray[np.float64],
        *,
        uniform: bool = False,
        alpha: Schedule = linear,
    ) -> None:
        self.initial = read_array("ChainDenoiser: initial", initial)
        self.transition = read_array("ChainDenoiser: transition", transition)
        k = self.initial.size
        if self.initial.shape != (k,) or self.transition.shape != (k, k) or not k:
            raise ArgumentError(
                f"ChainDenoiser: initial has shape {self.initial.shape} and transition {self.transition.shape}; give "
                "(K,) and (K, K) probabilities"
            )
        if isinstance(alpha, type) or not callable(alpha):
            raise ArgumentError(f"ChainDenoiser: alpha is {quote(alpha)}; give a function of the time, such as linear")
        rows = np.vstack([self.initial, self.transition])
        if (rows < 0.0).any() or not np.allclose(rows.sum(axis=1), 1.0, rtol=0.0, atol=1e-12):
            raise ArgumentError("initial and the rows of transition must be probabilities that sum to 1")
        self.time_independent = not read_flag("ChainDenoiser: uniform", uniform)
        self._alpha = alpha

    def log_probs(self, tokens: Tokens, t: float) -> LogProbs:
        """(U, L, K) nats."""
        seen = self._emission(tokens, t)
        forward = np.ones(seen.shape)
        backward = self._backward(seen)
        for i in range(tokens.shape[1]):
            before = forward[:, i - 1] * seen[:, i - 1] @ self.transition if i else self.initial
            forward[:, i] = before / np.sum(before, axis=-1, keepdims=True)
        joint = forward * seen * backward
        with np.errstate(divide="ignore"):
            return np.log(joint / joint.sum(axis=-1, keepdims=True))

    def transitions(self, tokens: Tokens, t: float) -> NDArray[np.float64]:
        """(U, L - 1, K, K) nats; anything follows a token from which the canvas cannot go on, for it is impossible."""
        seen = self._emission(tokens, t)
        p = self.transition * (seen * self._backward(seen))[:, 1:, None]
        total = p.sum(axis=-1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(np.where(total > 0.0, p / total, 1.0 / p.shape[-1]))

    def _backward(self, seen: NDArray[np.float64]) -> NDArray[np.float64]:
        """(U, L, K) the probability of what is seen after each position, up to a factor for each."""
        result = np.ones(seen.shape)
        for i in reversed(range(seen.shape[1] - 1)):
            after = (result[:, i + 1] * seen[:, i + 1]) @ self.transition.T
            result[:, i] = after / after.sum(axis=-1, keepdims=True)
        return result

    def _emission(self, tokens: Tokens, t: float) -> NDArray[np.float64]:
        k = len(self.initial)
        equal = (tokens[..., None] == np.arange(k)).astype(np.float64)
        if self.time_independent:
            return np.where((tokens == k)[..., None], 1.0, equal)
        alpha = read_share("what the schedule alpha returns", self._alpha(t))
        return alpha * equal + (1.0 - alpha) / k
