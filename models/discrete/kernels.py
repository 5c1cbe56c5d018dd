"""The reverse steps that there are: of masked noise, of masks revealed in some order, and of uniform noise.

In float64 throughout: Gumbel noise in float32 is truncated, which samples at a lower temperature than it claims (Zheng
et al. 2025, "Masked diffusion models are secretly time-agnostic masked models").
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np

from feynkac.base.contract import Mask, Rows
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_count, read_share, read_whole
from feynkac.base.words import is_word
from feynkac.models.discrete.denoiser import LogProbs, Tokens
from feynkac.models.discrete.draws import Draws
from feynkac.models.discrete.kernel import carry_over
from feynkac.models.discrete.schedules import Schedule, linear, make_grid


class _Hiding:
    """The part that all kernels have in common whose noise is the mask."""

    hides = True

    def blank(self, n: int, length: int, k: int, draws: Draws) -> Tokens:
        return np.full((n, length), k)

    def log_noise(self, i: int, tokens: Tokens, k: int) -> LogProbs | None:
        return None

    def log_blank(self, length: int, k: int) -> float:
        return 0.0

    def reveals(self, i: int) -> bool:
        return True

    def clean(self, tokens: Tokens, log_probs: LogProbs) -> LogProbs:
        return carry_over(tokens, log_probs)


class MaskedNoise(_Hiding):
    """Ancestral sampling of masked diffusion (MDLM; Sahoo et al. 2024, equation 7), with remasking if asked.

    Of the masked positions each is revealed with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t); of the
    visible ones each is masked again with probability sigma = remask * min(1, (1 - alpha_s) / alpha_t), the rescaled
    schedule of ReMDM (Wang et al. 2025, equations 6 and 9). Without remasking a canvas without masks is finished.
    Raises ArgumentError.
    """

    def __init__(self, steps: int, alpha: Schedule = linear, remask: float = 0.0) -> None:
        self.remask = read_share("remask", remask, ", the share of the largest remasking rate")
        self.permanent = self.remask == 0.0
        self._alpha = make_grid(steps, alpha)
        self.steps = len(self._alpha) - 1

    def noise_level(self, i: int) -> float:
        return 1.0 - i / self.steps

    def rates(self, i: int) -> tuple[float, float]:
        """The probabilities that step `i` reveals a masked position, and that it masks a visible one."""
        at, to = self._alpha[i], self._alpha[i + 1]
        sigma = self.remask * min(1.0, (1.0 - to) / at) if at > 0.0 else 0.0
        return ((to - (1.0 - sigma) * at) / (1.0 - at) if at < 1.0 else 1.0), sigma

    def choose(self, i: int, hidden: Mask, sureness: LogProbs, free: Mask, draws: Draws) -> Mask:
        reveal, remask = self.rates(i)
        rate = np.where(hidden, reveal, remask) * free
        result = rate >= 1.0
        for rows, places in draws.each((rate > 0.0) & ~result):
            asked = np.zeros(len(hidden), dtype=np.bool_)
            asked[rows] = True
            p = np.zeros(len(hidden))
            p[rows] = rate[rows, places]
            result[rows, places] = draws.below(p, asked)[rows]
        return result

    def law(self, i: int, tokens: Tokens, log_probs: LogProbs) -> LogProbs:
        if self.permanent:
            return log_probs
        masked = (tokens == log_probs.shape[-1])[..., None]
        to_mask = np.where(masked, -np.inf, 0.0)
        return np.concatenate([np.where(masked, log_probs, -np.inf), to_mask], axis=-1)

    def redraw_chance(self, i: int) -> float:
        return 1.0 - math.prod(1.0 - self.rates(j)[1] for j in range(i, self.steps))

    def done(self, i: int, tokens: Tokens, k: int) -> Mask:
        full = (tokens != k).all(axis=1)
        return full & (self.permanent or i >= self.steps)


Order: TypeAlias = Literal["random", "left", "confident"]


class Unmask(_Hiding):
    """Masked diffusion that reveals `per_step` positions a step: any-order autoregression (Ou et al. 2025).

    The positions are chosen before any token is drawn, so that the law has a density: uniformly, from the left, or
    where the denoiser is surest. With a consistent denoiser and one position a step, "random" and "left" sample its
    joint law exactly; "confident" is another law, which often reads better. Raises ArgumentError.
    """

    permanent = True

    def __init__(self, length: int, per_step: int = 1, order: Order = "random") -> None:
        length, per_step = read_count("length", length), read_whole("per_step", per_step, 1)
        if per_step > length:
            raise ArgumentError(f"per_step={per_step} of {length} positions; reveal at least one and at most all")
        if not is_word(order, ("random", "left", "confident")):
            raise ArgumentError(f"order={quote(order)}; it must be 'random', 'left' or 'confident'")
        self.length = length
        self.per_step = per_step
        self.order = order
        self.steps = -(-length // per_step)

    def noise_level(self, i: int) -> float:
        return 1.0 - min(1.0, i * self.per_step / self.length)

    def choose(self, i: int, hidden: Mask, sureness: LogProbs, free: Mask, draws: Draws) -> Mask:
        hidden = hidden.copy()
        result = np.zeros(hidden.shape, dtype=np.bool_)
        for _ in range(self.per_step):
            rows = np.flatnonzero(hidden.any(axis=1))
            place = self._choose_next(hidden[rows], sureness[rows], rows, draws)
            hidden[rows, place] = False
            result[rows, place] = True
        return result

    def _choose_next(self, hidden: Mask, sureness: LogProbs, rows: Rows, draws: Draws) -> Rows:
        if self.order == "random":
            return draws.categorical(np.where(hidden, 0.0, -np.inf), rows)
        asked = sureness if self.order == "confident" else np.zeros(hidden.shape)
        return np.where(hidden, asked, -np.inf).argmax(axis=1)

    def law(self, i: int, tokens: Tokens, log_probs: LogProbs) -> LogProbs:
        return log_probs

    def redraw_chance(self, i: int) -> float:
        return 0.0

    def done(self, i: int, tokens: Tokens, k: int) -> Mask:
        return (tokens != k).all(axis=1)


class UniformNoise:
    """Uniform discrete diffusion: noise replaces a token by a random one, and a step may change any position.

    p(x_s | x_t) = sum over x_0 of p(x_0 | x_t) q(x_s | x_t, x_0), each position by itself (D3PM; Austin et al. 2021,
    equations 3 and 4): exact for one position at a time if the denoiser is. Raises ArgumentError.
    """

    permanent = False
    hides = False

    def __init__(self, steps: int, alpha: Schedule = linear) -> None:
        self._alpha = make_grid(steps, alpha)
        self.steps = len(self._alpha) - 1

    def blank(self, n: int, length: int, k: int, draws: Draws) -> Tokens:
        tokens = np.empty((n, length), dtype=np.int64)
        draws.fill(tokens, np.ones(tokens.shape, dtype=np.bool_), np.zeros((n, length, k)))
        return tokens

    def noise_level(self, i: int) -> float:
        return 1.0 - i / self.steps

    def choose(self, i: int, hidden: Mask, sureness: LogProbs, free: Mask, draws: Draws) -> Mask:
        return np.ones(hidden.shape, dtype=np.bool_)

    def law(self, i: int, tokens: Tokens, log_probs: LogProbs) -> LogProbs:
        at, to, k = self._alpha[i], self._alpha[i + 1], log_probs.shape[-1]
        stays = tokens[..., None] == np.arange(k)
        from_clean = at * stays + (1.0 - at) / k  # q(x_t | x_0), which does not vanish before time 0
        # A schedule may be at its end before the last step: then x_0 is what stands there, whatever the denoiser says.
        share = np.exp(log_probs) / from_clean if at < 1.0 else 1.0 * stays
        ratio = at / to if to > 0.0 else 0.0
        p = (ratio * stays + (1.0 - ratio) / k) * (to * share + (1.0 - to) / k * share.sum(axis=-1, keepdims=True))
        with np.errstate(divide="ignore"):
            return np.log(p)

    def log_noise(self, i: int, tokens: Tokens, k: int) -> LogProbs | None:
        ratio = self._alpha[i] / self._alpha[i + 1] if self._alpha[i + 1] > 0.0 else 0.0
        with np.errstate(divide="ignore"):
            return np.log(ratio * (tokens[..., None] == np.arange(k)) + (1.0 - ratio) / k)

    def log_blank(self, length: int, k: int) -> float:
        return -length * math.log(k)

    def reveals(self, i: int) -> bool:
        return i + 1 >= self.steps

    def clean(self, tokens: Tokens, log_probs: LogProbs) -> LogProbs:
        return log_probs

    def redraw_chance(self, i: int) -> float:
        return float(i < self.steps)

    def done(self, i: int, tokens: Tokens, k: int) -> Mask:
        return np.full(len(tokens), i >= self.steps)
