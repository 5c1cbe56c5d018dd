"""The contract of a denoiser."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import Ranks, offers
from feynkac.base.errors import ArgumentError, quote

Tokens: TypeAlias = NDArray[np.int64]
"""(N, L) token ids; with K clean tokens, K itself stands for a mask."""
LogProbs: TypeAlias = NDArray[np.float64]
"""(N, L, K) log-probabilities of the clean token at each position, in nats."""


@runtime_checkable
class LogitsDenoiser(Protocol):
    """The posterior of the clean tokens, each position by itself.

    It may have the capabilities `IgnoresTime` and `RelatesNeighbours` (`feynkac.base.capabilities`).
    """

    def log_probs(self, tokens: Tokens, t: float) -> LogProbs:
        """(U, L, K) nats, normalised, for U canvases at noise level `t` in [0, 1]; -inf where a token cannot be."""
        ...


def check_denoiser(who: str, denoiser: Any) -> None:
    """Raises ArgumentError for what is no denoiser of canvases; `who` was given it."""
    if not offers(denoiser, LogitsDenoiser, Ranks):
        raise ArgumentError(
            f"{who}: {quote(denoiser)} is no denoiser of canvases; give an object with log_probs(tokens, t), such as "
            "ChainDenoiser(...) or NetworkDenoiser(network)"
        )
