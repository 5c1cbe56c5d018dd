"""How much is still open about a sample: Var[x0 | x], from the particles themselves.

The covariance of x0 given x is (sigma^2 / alpha) times the Jacobian of x0hat (Tweedie's formula, second order), and the
slope of the regression of x0hat on x over the particles is an average of that Jacobian (Stein's identity). So the
variance of a twist needs neither a magic constant nor a backward pass. It need not be right: a twist is a guess.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feynkac.base.contract import Mask
from feynkac.base.sampling import NoiseLevel


class Moments(NamedTuple):
    """Of each group and coordinate, (G, D) float64: sums of squares and products of deviations from the mean."""

    count: Tensor
    """(G,) particles."""
    x: Tensor
    shared: Tensor
    x0hat: Tensor


def posterior_variance(
    x: Tensor, x0hat: Tensor, noise_level: NoiseLevel, group: NDArray[np.int64], alive: Mask
) -> NDArray[np.float64]:
    """(N,) variance of one coordinate of x0 given x, averaged over coordinates, one value for each group.

    `x`, `x0hat`: (N, ...). For Gaussian data it is right up to sampling noise, whatever law has selected the particles.
    A group that has no spread, such as a single particle, is given the value of data with variance 1.
    """
    found = _find_moments(x, x0hat, group, alive)
    spread, shared = found.x.sum(1), found.shared.sum(1)
    known = (spread > 0) & (noise_level.alpha > 0)
    slope = shared.clamp(min=0.0) / torch.where(known, spread, 1.0)
    variance = torch.where(known, slope * noise_level.sigma**2 / (noise_level.alpha or 1.0), noise_level.variance(1.0))
    return variance.cpu().numpy()[group]


def coordinate_variance(
    x: Tensor, x0hat: Tensor, noise_level: NoiseLevel, group: NDArray[np.int64], alive: Mask
) -> Tensor:
    """(N, ...) variance of each coordinate of x0 given x; that of all, as far as the particles cannot tell them apart.

    The slope of each coordinate is drawn to that of all by as much as its own is uncertain, in the way of James and
    Stein (Efron, Morris 1973): few particles say little of one coordinate.
    """
    every = torch.as_tensor(posterior_variance(x, x0hat, noise_level, group, alive), device=x.device)
    found, factor = _find_moments(x, x0hat, group, alive), noise_level.sigma**2 / (noise_level.alpha or 1.0)
    slope = found.shared / found.x.clamp(min=1e-300)
    rest = (found.x0hat - slope * found.shared).clamp(min=0.0)
    error = rest / (found.x * (found.count - 2.0)[:, None].clamp(min=1e-300)).clamp(min=1e-300)
    real = ((slope - slope.mean(1, keepdim=True)) ** 2 - error).mean(1, keepdim=True).clamp(min=0.0)
    trust = torch.where((found.count > 2.0)[:, None] & (found.x > 0.0), real / (real + error).clamp(min=1e-300), 0.0)
    which = torch.as_tensor(group, device=x.device)
    own = factor * slope.clamp(min=0.0)
    variance = every[:, None] + trust[which] * (own[which] - every[:, None])
    return (
        variance.reshape(x.shape) if noise_level.alpha > 0.0 else every.reshape(-1, *[1] * (x.ndim - 1)).expand(x.shape)
    )


def _find_moments(x: Tensor, x0hat: Tensor, group: NDArray[np.int64], alive: Mask) -> Moments:
    rows = torch.as_tensor(np.flatnonzero(alive), device=x.device)
    which = torch.as_tensor(group[alive], device=x.device)
    count = torch.bincount(which, minlength=int(group.max()) + 1).clamp(min=1).double()

    def add(values: Tensor) -> Tensor:
        return values.new_zeros(len(count), values.shape[1]).index_add_(0, which, values)

    def centre(values: Tensor) -> Tensor:
        flat = values.flatten(1).index_select(0, rows).double()
        return flat - (add(flat) / count[:, None])[which]

    dx, dx0 = centre(x), centre(x0hat)
    return Moments(count, add(dx * dx), add(dx * dx0), add(dx0 * dx0))
