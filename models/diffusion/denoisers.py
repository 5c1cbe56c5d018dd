"""What a network is to a sampler: an estimate of the clean latent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from feynkac.base.capabilities import has, offers
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_positive
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.checks import run_in_parts
from feynkac.models.diffusion.kernel import check_kind, clean_of, noise_of

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
    carry: Tensor | None = None
    """(R, ...) what a `Recurrent` denoiser wants to be told at the next noise level."""

    @property
    def estimate(self) -> Tensor:
        """(R, ...) the clean latents that guesses see."""
        return self.x0hat if self.guess is None else self.guess


@runtime_checkable
class Predictor(Protocol):
    """A denoiser that has its own epshat, or a rate of weight."""

    def predict(self, x: Tensor, t: NoiseLevel, /) -> Prediction: ...


@runtime_checkable
class Recurrent(Protocol):
    """A denoiser that remembers what it said of each latent before, such as a momentum; a sampler copies it with them.

    What a denoiser keeps in its own attributes is not copied with the particles, and would be that of others.
    """

    def predict_next(self, x: Tensor, t: NoiseLevel, carry: Tensor | None, /) -> Prediction:
        """The prediction for latents `x` (R, ...); `carry` is that of their last one, None at the first level."""
        ...


def check_denoiser(who: str, denoiser: Any) -> None:
    """Raises ArgumentError for what is none of these; `who` was given it."""
    if not offers(denoiser, Denoiser, Predictor, Recurrent):
        raise ArgumentError(
            f"{who}: {quote(denoiser)} is no denoiser; give an object with x0hat(x, noise_level), such as "
            "Network(f) of a function f(x, time)"
        )


def predict(denoiser: Denoiser | Predictor | Recurrent, x: Tensor, carry: Tensor | None, state: Latents) -> Prediction:
    """What `denoiser` says about (R, ...) latents `x` at the noise level of `state`; in parts where memory runs out.

    `carry`: (R, ...) what a `Recurrent` one is told again. Raises ArgumentError for another shape than that of `x`,
    ModelError where memory runs out with one row.
    """
    if has(denoiser, Recurrent):
        index = torch.arange(len(x), device=x.device)
        parts = run_in_parts(
            state, "the network", index, lambda rows: _ask_next(denoiser, x[rows], state.noise_level, carry, rows)
        )
    else:
        parts = run_in_parts(state, "the network", x, lambda part: ask(denoiser, part, state.noise_level))
    if len(parts) == 1:
        return parts[0]
    return Prediction(*(None if some[0] is None else torch.cat(some) for some in zip(*parts, strict=True)))  # type: ignore[arg-type]


def ask(denoiser: Denoiser | Predictor | Recurrent, x: Tensor, noise_level: NoiseLevel) -> Prediction:
    """What `denoiser` says about all of `x` at once.

    Raises ArgumentError for another shape than that of `x`, and for a denoiser that must be told what it said before.
    """
    if has(denoiser, Recurrent):
        raise ArgumentError(
            f"{type(denoiser).__name__} remembers what it said at earlier noise levels, which only a sampler tells it "
            "again: give it to the sampler itself, not to another denoiser"
        )
    if has(denoiser, Predictor):
        return _check(denoiser, denoiser.predict(x, noise_level), x)
    x0hat = cast("Denoiser", denoiser).x0hat(x, noise_level)
    fits = isinstance(x0hat, Tensor) and x0hat.shape == x.shape
    return _check(denoiser, Prediction(x0hat, noise_of(x, x0hat, noise_level) if fits else x0hat), x)


def _ask_next(denoiser: Recurrent, x: Tensor, t: NoiseLevel, carry: Tensor | None, rows: Tensor) -> Prediction:
    said = _check(denoiser, denoiser.predict_next(x, t, None if carry is None else carry[rows]), x)
    if said.carry is not None and len(said.carry) != len(x):
        raise ArgumentError(
            f"{type(denoiser).__name__} returned a carry of shape {tuple(said.carry.shape)} for {len(x)} latents; "
            "return one row for each"
        )
    return said


def _check(denoiser: object, prediction: Prediction, x: Tensor) -> Prediction:
    said = isinstance(prediction, Prediction) and all(isinstance(part, Tensor) for part in prediction[:2])
    if not said:
        raise ArgumentError(f"{type(denoiser).__name__} returned {quote(prediction)}; return tensors of clean latents")
    if prediction.x0hat.shape != x.shape or prediction.epshat.shape != x.shape:
        raise ArgumentError(
            f"{type(denoiser).__name__} returned shape {tuple(prediction.x0hat.shape)} for latents of shape "
            f"{tuple(x.shape)}; return one clean latent for each"
        )
    return prediction


class Network:
    """A network `f(x, time) -> output` as a denoiser; `kind` says what it predicts (see `kernel.clean_of`).

    `clip` bounds x0hat to [-clip, clip], with epshat following it. Raises ArgumentError for what is no function, for
    another kind, and for a bound that is not above 0.
    """

    def __init__(self, f: Callable[[Tensor, float], Tensor], kind: str = "epsilon", clip: float | None = None) -> None:
        if not callable(f):
            raise ArgumentError(f"Network({quote(f)}): give a function f(x, time) of latents (R, ...) and their time")
        check_kind(kind)
        self._f, self.kind = f, kind
        self.clip = None if clip is None else read_positive("Network: clip", clip, ", or None for no bound")

    def x0hat(self, x: Tensor, t: NoiseLevel, /) -> Tensor:
        """(R, ...) the clean latents expected behind the latents `x` at noise level `t`."""
        output = self._f(x, t.time)
        if not isinstance(output, Tensor) or output.is_complex():
            raise ArgumentError(
                f"the network returned {quote(output)}; return a tensor with a prediction for each latent"
            )
        if output.shape != x.shape:
            raise ArgumentError(
                f"the network returned shape {tuple(output.shape)} for latents of shape {tuple(x.shape)}; return one "
                "prediction for each"
            )
        x0hat = clean_of(output, x, t, self.kind)
        return x0hat if self.clip is None else x0hat.clamp(-self.clip, self.clip)
