"""What a reverse step of discrete diffusion is: which positions change, and the law of their new values.

A step first chooses the positions that are redrawn, then each position's new value by itself. Only the second half is
ever steered, so that both halves have exact probabilities.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from feynkac.base.contract import Mask
from feynkac.models.discrete.denoiser import LogProbs, Tokens
from feynkac.models.discrete.draws import Draws


@runtime_checkable
class Kernel(Protocol):
    """One reverse process over canvases of L tokens, K clean ones and maybe the mask, which is token K."""

    steps: int
    """The number of steps after which every canvas is finished."""
    permanent: bool
    """Whether a visible token stays for good."""
    hides: bool
    """Whether noise hides a token behind the mask, rather than putting a random clean one in its place."""

    def blank(self, n: int, length: int, k: int, draws: Draws) -> Tokens:
        """(n, L) canvases of pure noise."""
        ...

    def noise_level(self, i: int) -> float:
        """The noise level in [0, 1] that the denoiser is told before step `i`."""
        ...

    def choose(self, i: int, hidden: Mask, sureness: LogProbs, free: Mask, draws: Draws) -> Mask:
        """(R, L) the positions that step `i` redraws, none of them outside `free` (R, L).

        `hidden`: (R, L) those under a mask; `sureness`: (R, L) nats, the log-probability of the likeliest token there.
        """
        ...

    def law(self, i: int, tokens: Tokens, log_probs: LogProbs) -> LogProbs:
        """(R, L, C) nats, the law of the new value at each position that is redrawn; C is K, or K + 1 with the mask."""
        ...

    def log_noise(self, i: int, tokens: Tokens, k: int) -> LogProbs | None:
        """(R, L, K) nats, how likely the noise of step `i` turns each new value back into what stands there.

        None where that does not depend on the value.
        """
        ...

    def log_blank(self, length: int, k: int) -> float:
        """The log-probability, in nats, of each canvas of noise."""
        ...

    def reveals(self, i: int) -> bool:
        """Whether step `i` draws clean tokens (or masks), so that a token drawn may stay to the end."""
        ...

    def clean(self, tokens: Tokens, log_probs: LogProbs) -> LogProbs:
        """(R, L, K) nats, what the finished tokens will be as far as is known."""
        ...

    def redraw_chance(self, i: int) -> float:
        """The probability that a token that is visible after `i` steps is drawn once more before the end."""
        ...

    def done(self, i: int, tokens: Tokens, k: int) -> Mask:
        """(R,) whether canvases are finished after `i` steps."""
        ...


def carry_over(tokens: Tokens, log_probs: LogProbs) -> LogProbs:
    """The denoiser's answer (R, L, K) in nats, with visible tokens certain.

    "Carry-over unmasking" (Sahoo et al. 2024, section 3.2.3).
    """
    k = log_probs.shape[-1]
    sure = np.where(tokens[..., None] == np.arange(k), 0.0, -np.inf)
    return np.where((tokens == k)[..., None], log_probs, sure)


def find_certain(law: LogProbs, tokens: Tokens) -> Mask:
    """(R, L) positions whose clean token is the one that stands there, by the `law` (R, L, K) in nats."""
    k = law.shape[-1]
    own = np.take_along_axis(law, np.minimum(tokens, k - 1)[..., None], axis=-1)[..., 0]
    return (tokens < k) & (own == 0.0)
