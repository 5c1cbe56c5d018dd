"""Guesses by a tractable model: one whose laws with and without the condition are both known at every noise level."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from feynkac.base.capabilities import offers
from feynkac.base.contract import LogW, Potential, Rows, State
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_finite
from feynkac.base.sampling import NoiseLevel, View
from feynkac.potentials.rewards.decoded import Guess, store
from feynkac.smc.checks import name_of


@runtime_checkable
class Tractable(Protocol):
    """A law of clean latents whose density is known when noise is added, such as a `GaussianMixture`."""

    def log_prob(self, x: Tensor, noise_level: NoiseLevel, /) -> Tensor:
        """(R,) nats: the log-density of (R, ...) latents at a noise level."""
        ...


class Foreseen(Guess):
    """A potential whose guesses are a tractable model's (see `foreseen`)."""

    def __init__(self, potential: Potential, prior: Tractable, posterior: Tractable, log_evidence: float) -> None:
        self.potential, self.prior, self.posterior = potential, prior, posterior
        self.log_evidence = log_evidence
        self.name = f"foreseen({name_of(potential)})"

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats: log p(y | x) = log p(y) + log p(x | y) - log p(x) of the tractable model, for latents x."""
        x, level = view.latent, view.noise_level
        with torch.no_grad():  # Tweedie's formula has the gradient: see the proposal Blended
            ratio = self.posterior.log_prob(x, level) - self.prior.log_prob(x, level)
        return store(self, view, ratio.double() + self.log_evidence)

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats: that of the potential."""
        return self.potential.final(state, rows)


def foreseen(potential: Potential, prior: Tractable, posterior: Tractable, log_evidence: float = 0.0) -> Foreseen:
    """`potential`, with guesses on the way that are exact for a tractable model of the data.

    `prior` and `posterior`: the tractable model without and with what the potential asks for, both laws of latents. For
    a Gaussian mixture and y = A x + noise: `log_evidence, posterior = prior.observe(A, y, noise**2)`, and the potential
    is `observed(...)`; `log_evidence` in nats only sets the height of the guesses. The target is that of `potential`
    whatever the model is; the better it is, the less do weights vary, to nothing where the sampler has its law. It has
    no gradient of its own: `feynkac.models.diffusion.Blended(posterior, prior)` follows it without one.

    Raises ArgumentError for what is no potential, and for laws without `log_prob(x, noise_level)`.
    """
    if not offers(potential, Potential):
        raise ArgumentError(f"foreseen({quote(potential)}): give a potential, such as observed(...) or reward(f)")
    for each in (prior, posterior):
        if not offers(each, Tractable):
            raise ArgumentError(
                f"foreseen(...): {quote(each)} has no log_prob(x, noise_level); give a GaussianMixture, or a "
                "law of noisy latents of your own"
            )
    height = read_finite("foreseen: log_evidence", log_evidence, " of nats")
    return Foreseen(potential, prior, posterior, height)
