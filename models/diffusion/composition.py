"""Products, powers and guidance of experts: samples from prod_i p_i(x)^beta_i, by Feynman-Kac correctors.

The score of the target at every noise level is S = sum_i beta_i s_i, but a sampler that follows S does not sample from
it. With forward noise dx = f x dt + g dW, its reverse for any amount of fresh noise has the law of the target if each
path is weighted by exp of the integral over reverse time of

    (B - 1) f D + g^2 / 2 (|S|^2 - sum_i beta_i |s_i|^2),     B = sum_i beta_i

(Skreta et al. 2025, "Feynman-Kac correctors in diffusion", Propositions 3.1-3.3 in one formula, re-derived by putting
prod_i p_i^beta_i into the Fokker-Planck equation; the divergences of the scores cancel). Here f dt = d log alpha and
g^2 dt = alpha^2 d(sigma^2 / alpha^2), and the scores stay as they are at the beginning of a step. So this is exact in
the limit of many steps: for B = 1 with any sampler, else also up to the law of pure noise at the start.

For B > 1 take eta^2 > 1 - 1/B: with less noise the target's spread is an unstable fixed point of the weighted chain
while the latents are mostly noise (its Riccati equation has slope B - 1 - eta^2 B there), and errors of the steps grow.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_sequence
from feynkac.base.numbers import read_finite
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.denoisers import Denoiser, Prediction, Predictor, ask, check_denoiser
from feynkac.models.diffusion.kernel import Transition, square_lengths


class Composition:
    """prod_i p_i(x)^beta_i as the denoiser of a sampler, which adds the corrector to the weights.

    Its evidence estimates the log of the integral of prod_i p_i(x)^beta_i. Raises ArgumentError for what are no pairs
    of a denoiser and its power, and for powers whose sum is not above 0.
    """

    def __init__(self, *experts: tuple[Denoiser | Predictor, float]) -> None:
        self.experts = tuple(_read_expert(each) for each in experts)
        self.power = float(sum(beta for _, beta in self.experts))
        if not experts or not self.power > 0.0 or not math.isfinite(self.power):
            raise ArgumentError(f"the powers of experts add up to {self.power}; their product needs a sum above 0")

    def predict(self, x: Tensor, t: NoiseLevel, /) -> Prediction:
        """x0hat and epshat of the target, and the rate |S|^2 - sum_i beta_i |s_i|^2 (R,).

        For B != 1 x0hat is far from any sample while x is mostly noise; guesses see the mean of the experts' x0hats.
        """
        if t.alpha == 0.0 and self.power != 1.0:
            raise ArgumentError(
                "powers that do not add up to 1 need alpha > 0 at the first noise level; start below pure noise"
            )
        said = [ask(denoiser, x, t) for denoiser, _ in self.experts]
        powers = [beta for _, beta in self.experts]
        eps = sum((beta * each.epshat for beta, each in zip(powers, said, strict=True)), torch.zeros_like(x))
        x0hat = sum((beta * each.x0hat for beta, each in zip(powers, said, strict=True)), torch.zeros_like(x))
        guess = None
        if self.power != 1.0:
            guess, x0hat = x0hat / self.power, x0hat + (1.0 - self.power) / t.alpha * x
        alone = sum(
            (beta * square_lengths(each.epshat) for beta, each in zip(powers, said, strict=True)),
            square_lengths(x) * 0.0,
        )
        return Prediction(x0hat, eps, (square_lengths(eps) - alone) / t.sigma**2, guess)


def _read_expert(expert: Any) -> tuple[Denoiser | Predictor, float]:
    pair = as_sequence(expert)
    if pair is None or len(pair) != 2:
        raise ArgumentError(f"Composition({quote(expert)}): give pairs, each a denoiser and its power")
    check_denoiser("Composition", pair[0])
    return pair[0], read_finite("Composition: a power", pair[1])


def anneal(denoiser: Denoiser | Predictor, power: float) -> Composition:
    """p(x)^power: above 1 typical samples, below 1 diverse ones."""
    return Composition((denoiser, power))


def multiply(*denoisers: Denoiser | Predictor) -> Composition:
    """p_1(x) p_2(x) ...: what all experts agree on."""
    return Composition(*((denoiser, 1.0) for denoiser in denoisers))


def guide(conditional: Denoiser | Predictor, unconditional: Denoiser | Predictor, scale: float) -> Composition:
    """p_conditional^scale p_unconditional^(1 - scale): what classifier-free guidance means to sample from.

    At scale 1 it is the conditional model, above it more than that (Ho, Salimans 2021).
    """
    power = read_finite("guide: scale", scale)
    return Composition((conditional, power), (unconditional, 1.0 - power))


def corrector(power: float, rate: Tensor, transition: Transition, size: int) -> Tensor:
    """(N,) float64 nats that a transition adds to the weights, for experts whose powers add up to `power`.

    `rate`: (N,) of their `Prediction`. `size`: the number of coordinates of a latent.
    """
    before, after = transition.before, transition.after
    if before.alpha == 0.0:
        return torch.zeros_like(rate)  # all experts have the same score, that of pure noise
    g2 = before.alpha * after.alpha * ((before.sigma / before.alpha) ** 2 - (after.sigma / after.alpha) ** 2)
    return (power - 1.0) * size * math.log(before.alpha / after.alpha) + 0.5 * g2 * rate


def start_of(power: float, start: float, size: int) -> tuple[float, float]:
    """Standard deviation of the first latent under the target, and the log of its normalising constant in nats.

    `start`: the standard deviation for one expert with power 1.
    """
    log_z = 0.5 * size * ((1.0 - power) * math.log(2.0 * math.pi * start**2) - math.log(power))
    return start / math.sqrt(power), log_z


def power_of(denoiser: Any) -> float:
    """The sum of the powers of a composition's experts; 1 for any other denoiser."""
    return denoiser.power if isinstance(denoiser, Composition) else 1.0
