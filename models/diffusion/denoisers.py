"""What a network is to a sampler: an estimate of the clean latent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from feynkac.base.capabilities import has
from feynkac.base.errors import ArgumentError
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.checks import run_in_parts
from feynkac.models.diffusion.kernel import clean_of, noise_of

if TYPE_CHECKING:
    from feynkac.models.diffusion.state import Latents


@runtime_checkable
class Denoiser(Protocol):
    """E[x0 | x], or an approximation of it."""

    def x0hat(self, x: Tensor, t: NoiseLevel, /) -> Tensor:
        """(R, ...) the clean latents expected behind (R, ...) latents at noise level `t`, row by row."""
        ...


class Prediction(NamedTuple):
    """All that a step of the sampler needs to know about R latents."""

    x0hat: Tensor
    """(R, ...) the clean latents expected."""
    epshat: Tensor
    """(R, ...) the noise expected; where x0hat was clipped, a scheduler may not follow it."""
    rate: Tensor | None = None
    """(R,) float64: |S|^2 - sum_i beta_i |s_i|^2 of a composition of experts (see `composition`), if it is one."""
    guess: Tensor | None = None
    """(R, ...) what guesses see, where x0hat makes no plausible sample."""

    @property
    def estimate(self) -> Tensor:
        """(R, ...) the clean latents that guesses see."""
        return self.x0hat if self.guess is None else self.guess


@runtime_checkable
class Predictor(Protocol):
    """A denoiser that has its own epshat, or a rate of weight."""

    def predict(self, x: Tensor, t: NoiseLevel, /) -> Prediction: ...


def predict(denoiser: Denoiser | Predictor, x: Tensor, state: Latents) -> Prediction:
    """What `denoiser` says about (R, ...) latents `x` at the noise level of `state`; in parts where memory runs out.

    Raises ArgumentError for another shape than that of `x`, ModelError where memory runs out with one row.
    """
    parts = run_in_parts(state, "the network", x, lambda part: ask(denoiser, part, state.noise_level))
    if len(parts) == 1:
        return parts[0]
    return Prediction(*(None if some[0] is None else torch.cat(some) for some in zip(*parts, strict=True)))  # type: ignore[arg-type]


def ask(denoiser: Denoiser | Predictor, x: Tensor, noise_level: NoiseLevel) -> Prediction:
    """What `denoiser` says about all of `x` at once. Raises ArgumentError for another shape than that of `x`."""
    if has(denoiser, Predictor):
        prediction = denoiser.predict(x, noise_level)
    else:
        x0hat = cast("Denoiser", denoiser).x0hat(x, noise_level)
        prediction = Prediction(x0hat, noise_of(x, x0hat, noise_level) if x0hat.shape == x.shape else x0hat)
    if prediction.x0hat.shape != x.shape or prediction.epshat.shape != x.shape:
        raise ArgumentError(
            f"{type(denoiser).__name__} returned shape {tuple(prediction.x0hat.shape)} for latents of shape "
            f"{tuple(x.shape)}; return one clean latent for each"
        )
    return prediction


class Network:
    """A network `f(x, time) -> output` as a denoiser; `kind` says what it predicts (see `kernel.clean_of`).

    `clip` bounds x0hat to [-clip, clip], with epshat following it.
    """

    def __init__(self, f: Callable[[Tensor, float], Tensor], kind: str = "epsilon", clip: float | None = None) -> None:
        self._f, self.kind, self.clip = f, kind, clip

    def x0hat(self, x: Tensor, t: NoiseLevel, /) -> Tensor:
        """(R, ...) the clean latents expected behind the latents `x` at noise level `t`."""
        output = self._f(x, t.time)
        if output.shape != x.shape:
            raise ArgumentError(
                f"the network returned shape {tuple(output.shape)} for latents of shape {tuple(x.shape)}; return one "
                "prediction for each"
            )
        x0hat = clean_of(output, x, t, self.kind)
        return x0hat if self.clip is None else x0hat.clamp(-self.clip, self.clip)
