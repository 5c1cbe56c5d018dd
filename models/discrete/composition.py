"""Products, powers and guidance of experts on a canvas: samples from prod_i p_i(x)^beta_i, by Feynman-Kac correctors.

A sampler that follows prod_i p_i(v | canvas)^beta_i, normalised at each step, does not sample from the product: the
normaliser depends on the canvas. So it goes into the weight, all of it (Hasan et al. 2026, "Discrete Feynman-Kac
correctors", in continuous time; Skreta et al. 2025 for continuous diffusion). Here the steps are finite, and exact.

The target. Let P_i(path) be the law of a whole run of the sampler with expert i alone, and F(path | x) the probability
that the noise takes the sample x back along that path. Weighted paths follow

    gamma(path) = F(path | x)^(1 - B) prod_i P_i(path)^beta_i,     B = sum_i beta_i,

for any denoisers and any number of steps, and the evidence estimates log sum gamma(path) without bias. Where every
expert undoes the noise exactly, P_i(path) = p_i(x) F(path | x), and gamma(path) = F(path | x) prod_i p_i(x)^beta_i:
samples follow the product of the final laws. So it is for masked diffusion with consistent denoisers and one position
a step, and for uniform diffusion with exact denoisers in the limit of many steps. For masked diffusion F is the law of
the order in which positions are revealed, which is the same for all x: with several positions a step the target is the
product of what the experts' samplers write given that order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import IgnoresTime
from feynkac.base.contract import LogW, Mask
from feynkac.base.errors import ArgumentError, ModelError, quote
from feynkac.base.lists import as_sequence
from feynkac.base.numbers import read_finite
from feynkac.models.discrete.denoiser import LogitsDenoiser, LogProbs, Tokens, check_denoiser

if TYPE_CHECKING:
    from feynkac.models.discrete.kernel import Kernel


class Composition:
    """prod_i p_i(x)^beta_i as the denoiser of a `DiscreteDiffusion`; its evidence is that of the product.

    Powers may be negative, where the other experts allow no token that such an expert rules out. Raises ArgumentError
    for what are no pairs of a denoiser and its power, and for powers whose sum is not above 0.
    """

    def __init__(self, *experts: tuple[LogitsDenoiser, float]) -> None:
        pairs = [_read_expert(each) for each in experts]
        self.experts = tuple(denoiser for denoiser, _ in pairs)
        self.powers = tuple(beta for _, beta in pairs)
        self.power = math.fsum(self.powers)
        if not experts or not self.power > 0.0 or not math.isfinite(self.power):
            raise ArgumentError(f"the powers of experts add up to {self.power}; their product needs a sum above 0")
        self.time_independent = all(isinstance(each, IgnoresTime) and each.time_independent for each in self.experts)

    def combine(self, answers: NDArray[np.float64]) -> LogProbs:
        """(R, L, K) nats: the normalised product of the experts' `answers` (R, E, L, K), for guesses to look at."""
        return _normalise(_multiply(answers, self.powers, infinite=0.0))[0]

    def law(self, kernel: Kernel, i: int, tokens: Tokens, answers: NDArray[np.float64]) -> tuple[LogProbs, LogProbs]:
        """(R, L, C) nats, the law of the new value at each position in step `i`, and (R, L) its normaliser."""
        laws = [kernel.law(i, tokens, answers[:, e]) for e in range(answers.shape[1])]
        log_noise = kernel.log_noise(i, tokens, answers.shape[-1])
        powers = self.powers
        if log_noise is not None:
            laws, powers = [*laws, log_noise], (*powers, 1.0 - self.power)
        return _normalise(_multiply(np.stack(laws, axis=1), powers, infinite=np.inf))

    def log_start(self, kernel: Kernel, length: int, k: int) -> float:
        """Nats that a canvas of noise weighs before the first step."""
        return (self.power - 1.0) * kernel.log_blank(length, k)


def _read_expert(expert: Any) -> tuple[LogitsDenoiser, float]:
    pair = as_sequence(expert)
    if pair is None or len(pair) != 2:
        raise ArgumentError(f"Composition({quote(expert)}): give pairs, each a denoiser and its power")
    check_denoiser("Composition", pair[0])
    return pair[0], read_finite("Composition: a power", pair[1])


def anneal(denoiser: LogitsDenoiser, power: float) -> Composition:
    """p(x)^power: above 1 typical samples, below 1 diverse ones."""
    return Composition((denoiser, power))


def multiply(*denoisers: LogitsDenoiser) -> Composition:
    """p_1(x) p_2(x) ...: what all experts agree on."""
    return Composition(*((denoiser, 1.0) for denoiser in denoisers))


def guide(conditional: LogitsDenoiser, unconditional: LogitsDenoiser, scale: float) -> Composition:
    """p_conditional^scale p_unconditional^(1 - scale): what classifier-free guidance means to sample from.

    At scale 1 it is the conditional model, above it more than that (Ho, Salimans 2021).
    """
    power = read_finite("guide: scale", scale)
    return Composition((conditional, power), (unconditional, 1.0 - power))


def sum_normalisers(log_c: LogProbs, moved: Mask) -> LogW:
    """(R,) nats that a step adds to the weights: the normalisers `log_c` (R, L) of the positions `moved` (R, L).

    -inf where no token is left that every expert allows. Raises ModelError for a position without a normaliser.
    """
    if (moved & (log_c == np.inf)).any():
        row, place = np.argwhere(moved & (log_c == np.inf))[0]
        raise ModelError(
            f"at position {place} of row {row} an expert with a negative power rules out a token that the others "
            "allow, whose weight would be infinite; give that expert no zeros, or the others the same ones"
        )
    return np.where(moved, log_c, 0.0).sum(axis=1)


def _multiply(laws: NDArray[np.float64], powers: tuple[float, ...], infinite: float) -> LogProbs:
    """(R, L, C) the sum over e of powers[e] * laws[:, e]; 0^0 = 1, and 0 to a negative power adds `infinite`.

    What an expert with a positive power rules out stays out, whatever the others say.
    """
    total = np.zeros(laws[:, 0].shape)
    never = np.zeros(laws[:, 0].shape, dtype=np.bool_)
    for e, beta in enumerate(powers):
        zero = laws[:, e] == -np.inf
        if beta > 0.0:
            never |= zero
        if beta != 0.0:
            total += np.where(zero, infinite if beta < 0.0 else 0.0, beta * np.where(zero, 0.0, laws[:, e]))
    return np.where(never, -np.inf, total)


def _normalise(log_p: LogProbs) -> tuple[LogProbs, Any]:
    """The laws (..., C) with total 1, and their log totals; uniform where the total is 0 or infinite."""
    with np.errstate(divide="ignore"):
        top = log_p.max(axis=-1, keepdims=True)
        log_total = np.log(np.exp(log_p - _zero_infinite(top)).sum(axis=-1, keepdims=True))
        log_c = np.where(np.isfinite(top), top + log_total, top)
    return np.where(np.isfinite(log_c), log_p - _zero_infinite(log_c), -math.log(log_p.shape[-1])), log_c[..., 0]


def _zero_infinite(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(x), x, 0.0)
