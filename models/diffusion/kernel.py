"""One Gaussian kernel for every one-step sampler: x_s = alpha_s x0hat + c epshat + std z.

Notation of all of `models.diffusion`: a latent at a noise level is x = alpha x0 + sigma eps; t is the noisier level of
a transition and s the cleaner. Shapes: `N` particles, `R` rows, `...` the shape of one latent, `D` its size.

DDPM, DDIM with eta, Euler-ancestral and flow matching as an SDE are `ancestral`; LCM and the stochastic step of
flow-matching schedulers are `renoise`. With std^2 = sigma_s^2 - c^2 the level of the new latent is exactly s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import as_real, read_real
from feynkac.base.sampling import NoiseLevel
from feynkac.base.words import is_word

KINDS = ("epsilon", "v_prediction", "flow", "sample")
"""What networks predict."""
TINY = 1e-30
"""A variance that is as good as none."""


class NoStep(ArgumentError):
    """No step leads from one noise level to another."""


@dataclass(frozen=True)
class Transition:
    """The law N(alpha_s x0hat + c epshat, std^2) of a latent at noise level `after`, given one at `before`.

    Raises ArgumentError for what are no noise levels, and for numbers that cannot be.
    """

    before: NoiseLevel
    after: NoiseLevel
    c: float
    std: float

    def __post_init__(self) -> None:
        check_levels("Transition", self.before, self.after)
        for name in ("c", "std"):
            number = as_real(getattr(self, name))
            if number is None or (name == "std" and number < 0.0):
                least = " of at least 0" if name == "std" else ""
                raise NoStep(f"Transition: {name} is {quote(getattr(self, name))}; it must be a finite number{least}")
            object.__setattr__(self, name, number)

    def mean(self, x0hat: Tensor, epshat: Tensor) -> Tensor:
        """(R, ...) the mean of the next latent."""
        return self.after.alpha * x0hat + self.c * epshat

    @property
    def lever(self) -> float:
        """By how much the mean moves when x0hat moves by 1 and epshat = (x - alpha x0hat) / sigma follows."""
        return self.after.alpha - self.c * self.before.alpha / self.before.sigma

    def reach(self, variance: Tensor) -> Tensor:
        """By how much the mean moves under the kernel times psi(x_s) when psi moves E[x0 | x_t] by 1, in any shape.

        `variance`: Var[x0 | x_t]. It is std^2 times the slope of log psi at x_s, alpha_s V_s / (sigma_s^2 V_t) with
        1 / V_s - 1 / V_t the growth of alpha^2 / sigma^2: exact for a normal law and log psi(x0) without curvature.
        """
        (alpha, sigma), before = (self.after.alpha, self.after.sigma), self.before
        growth = max(alpha**2 - (before.alpha * sigma / before.sigma) ** 2, 0.0)
        return self.std**2 * alpha / (sigma**2 + growth * variance).clamp(min=TINY)


def ancestral(before: NoiseLevel, after: NoiseLevel, eta: float = 1.0) -> Transition:
    """Replace the share `eta` of the standard deviation that x_s has given x_t and x0 by fresh noise.

    c^2 = sigma_s^2 - eta^2 v with v = sigma_s^2 (1 - alpha_t^2 sigma_s^2 / (alpha_s^2 sigma_t^2)). With VP levels this
    is DDIM (Song, Meng, Ermon 2021, eq. 12 and 16) and at eta=1 DDPM (Ho et al. 2020, eq. 6); with alpha = 1 the
    ancestral Euler sampler; with alpha = 1 - sigma a stochastic sampler of flow models. Raises ArgumentError for an eta
    that would need more noise than level s has, for a level t without noise and a level s without signal.
    """
    eta = read_real("eta", eta, 0.0, "; 1 is as much noise as DDPM adds")
    check_levels("ancestral", before, after)
    if before.sigma == 0.0 or after.alpha == 0.0:
        raise NoStep(f"no step leads from {before} to {after}: the first has noise, and the second has signal")
    ratio = before.alpha * after.sigma / (after.alpha * before.sigma)
    variance = eta * eta * after.sigma**2 * max(1.0 - ratio**2, 0.0)
    left = after.sigma**2 - variance
    if not left >= -1e-12 * after.sigma**2:
        raise ArgumentError(
            f"eta={eta} from {before} to {after} would need more noise than there is; 1 is as much as DDPM adds"
        )
    return Transition(before, after, math.sqrt(max(left, 0.0)), math.sqrt(variance))


def renoise(before: NoiseLevel, after: NoiseLevel) -> Transition:
    """Forget all noise and draw it anew, c = 0: the step of consistency models, and of stochastic flow schedulers.

    Song et al. (2023), Algorithm 1; Luo et al. (2023).
    """
    check_levels("renoise", before, after)
    return Transition(before, after, 0.0, after.sigma)


def there_and_back(step: Transition) -> Transition:
    """`step`, then the noise that leads back to the level where it began: an inner step of RePaint.

    x_t' = r x_s + sqrt(sigma_t^2 - r^2 sigma_s^2) z with r = alpha_t / alpha_s (Lugmayr et al. 2022, Algorithm 1). The
    smaller the step, and the nearer x0hat to E[x0 | x], the nearer it is to leaving the law of the latents at that
    level as it is. Raises ArgumentError for a step that ends no cleaner than it began.
    """
    if not isinstance(step, Transition):
        raise ArgumentError(f"there_and_back({quote(step)}): give a Transition")
    if step.after.alpha == 0.0:
        raise ArgumentError(f"a step to {step.after} ends in pure noise; there is no way back")
    ratio = step.before.alpha / step.after.alpha
    added = step.before.sigma**2 - (ratio * step.after.sigma) ** 2
    if added < 0.0:
        raise ArgumentError(f"a step from {step.before} to {step.after} ends with more noise; there is no way back")
    return Transition(step.before, step.before, ratio * step.c, math.hypot(ratio * step.std, math.sqrt(added)))


def check_levels(who: str, *levels: object) -> None:
    """Raises ArgumentError for what is no NoiseLevel."""
    for each in levels:
        if not isinstance(each, NoiseLevel):
            raise ArgumentError(f"{who}: {quote(each)} is no noise level; give a NoiseLevel(alpha, sigma)")


def check_falling(before: NoiseLevel, after: NoiseLevel) -> None:
    """Raises ArgumentError where there is more noise beside the signal in `after` than in `before`."""
    if before.alpha * after.sigma > after.alpha * before.sigma * (1.0 + 1e-9):
        raise ArgumentError(f"a step from {before} to {after} adds noise; give the noisiest level first")


def log_ratio(noise: Tensor, shift: Tensor, std: float) -> Tensor:
    """(R,) float64 nats: log p/q of x = m + shift + std noise, p = N(m, std^2), q = N(m + shift, std^2).

    `noise`, `shift`: (R, ...). -(eps . d)/s - |d|^2/(2 s^2), as it stands: the difference of two log-densities, each
    as large as the latent has coordinates, would lose it to rounding (core_abstraction C.7).
    """
    d = shift.flatten(1).double() / std
    return -(d * (noise.flatten(1).double() + 0.5 * d)).sum(1)


def noise_of(x: Tensor, x0hat: Tensor, noise_level: NoiseLevel) -> Tensor:
    """(R, ...) epshat, the noise that is left in `x` when x0hat is taken out."""
    return (x - noise_level.alpha * x0hat) / noise_level.sigma


def clean_of(output: Tensor, x: Tensor, noise_level: NoiseLevel, kind: str) -> Tensor:
    """(R, ...) x0hat from what a network predicts about `x`: "epsilon", "v_prediction", "flow" or "sample".

    "v_prediction" expects alpha^2 + sigma^2 = 1 (Salimans, Ho 2022), "flow" alpha = 1 - sigma (Lipman et al. 2023).
    Raises ArgumentError for another kind.
    """
    check_kind(kind)
    if kind == "epsilon":
        return (x - noise_level.sigma * output) / noise_level.alpha
    if kind == "v_prediction":
        return noise_level.alpha * x - noise_level.sigma * output
    if kind == "flow":
        return x - noise_level.sigma * output
    return output


def check_kind(kind: object) -> None:
    """Raises ArgumentError for what no network predicts."""
    if not is_word(kind, KINDS):
        raise ArgumentError(f"prediction {quote(kind)}; it is one of {', '.join(map(repr, KINDS))}")


def square_lengths(x: Tensor) -> Tensor:
    """(R,) float64: the squared length of each row of (R, ...)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1, dtype=torch.float64) ** 2
