"""Linear-Gaussian observations y = A x + noise: inpainting, super-resolution, deblurring, any matrix."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from feynkac.base.contract import LogW, Rows, State
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_positive
from feynkac.base.sampling import View
from feynkac.base.words import is_word
from feynkac.potentials.diffusion.operators import Operator
from feynkac.potentials.rewards.decoded import Guess, require_outputs, store
from feynkac.tensors import read_tensor


class Observation(Guess):
    """The likelihood of y (see `observed`)."""

    def __init__(self, operator: Operator, y: Tensor, noise: float, prior: float | Literal["online"]) -> None:
        self.operator, self.y, self.noise, self.prior = operator, y, noise, prior
        self.name = f"observed({operator.name})"
        self.define(y.tolist(), operator.gram.tolist())

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats: log N(y; A x0hat, noise^2 I + V A A') with V the variance of x0 given the latent.

        It is right for Gaussian data (pseudo-inverse guidance, Song et al. 2023, eq. 7, with its V).
        """
        if isinstance(self.prior, str):
            variance = view.estimate_variance()
        else:
            variance = torch.full(
                (len(view.rows),), view.noise_level.variance(self.prior), dtype=torch.float64, device="cpu"
            )
        return store(self, view, self._log_density(view.estimate, variance))

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats: log N(y; A x, noise^2 I)."""
        zero = torch.zeros(1, dtype=torch.float64, device="cpu")
        outputs = require_outputs(state, self.name).outputs(rows)
        return np.concatenate([self._log_density(x, zero.to(x.device)).cpu().numpy() for _, x in outputs])

    def _log_density(self, x: Tensor, variance: Tensor) -> Tensor:
        """(R,) nats for samples or estimates (R, ...) and the variances (R,) or (1,) of one coordinate of theirs."""
        seen = self.operator.apply(x)
        if seen.shape[1:] != self.y.shape:
            raise ArgumentError(
                f"'{self.name}' makes {tuple(seen.shape[1:])} of a sample of {tuple(x.shape[1:])}, but y has the shape "
                f"{tuple(self.y.shape)}"
            )
        off = self.operator.whiten(seen.double() - self.y.to(seen.device).double()).abs() ** 2
        off = off.reshape(len(off), -1, off.shape[-1])  # channels share the spectrum
        var = self.noise**2 + variance.to(off.device)[:, None, None] * self.operator.gram.to(off.device).double()
        return -0.5 * (off / var + torch.log(2.0 * math.pi * var)).sum((1, 2))


def observed(operator: Operator, y: Tensor, noise: float, prior: float | Literal["online"] = "online") -> Observation:
    """Condition samples on y = A x + N(0, noise^2 I); the evidence of the run is then log p(y), in nats.

    `operator`: one of `operators`; `y`: of the shape that it makes of one sample. `prior`: the variance of the data for
    the guesses on the way, which change no target; "online" takes it from the particles.

    Raises ArgumentError for noise that is not positive, and for shapes that do not fit.
    """
    if not isinstance(operator, Operator):
        raise ArgumentError(
            f"observed({quote(operator)}): give an operator, such as inpainting(mask) or linear(matrix)"
        )
    deviation = read_positive("observed: noise", noise, ", the standard deviation of the noise")
    variance: float | Literal["online"] = "online"
    if not is_word(prior, ("online",)):
        variance = read_positive("observed: prior", prior, ", the variance of the data, or 'online'")
    return Observation(operator, read_tensor("observed: y", y).detach(), deviation, variance)
