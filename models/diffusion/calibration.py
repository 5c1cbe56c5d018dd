"""How much is still open about a sample: Var[x0 | x], from the particles themselves.

The covariance of x0 given x is (sigma^2 / alpha) times the Jacobian of x0hat (Tweedie's formula, second order), and the
slope of the regression of x0hat on x over the particles is an average of that Jacobian (Stein's identity). So the
variance of a twist needs neither a magic constant nor a backward pass. It need not be right: a twist is a guess.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feynkac.base.contract import Mask
from feynkac.base.sampling import NoiseLevel


def posterior_variance(
    x: Tensor, x0hat: Tensor, noise_level: NoiseLevel, group: NDArray[np.int64], alive: Mask
) -> NDArray[np.float64]:
    """(N,) variance of one coordinate of x0 given x, averaged over coordinates, one value for each group.

    `x`, `x0hat`: (N, ...). For Gaussian data it is right up to sampling noise, whatever law has selected the particles.
    A group that has no spread, such as a single particle, is given the value of data with variance 1.
    """
    rows = torch.as_tensor(np.flatnonzero(alive), device=x.device)
    which = torch.as_tensor(group[alive], device=x.device)
    count = torch.bincount(which, minlength=int(group.max()) + 1).clamp(min=1).double()

    def centre(values: Tensor) -> Tensor:
        flat = values.flatten(1).index_select(0, rows).double()
        total = flat.new_zeros(len(count), flat.shape[1]).index_add_(0, which, flat)
        return flat - (total / count[:, None])[which]

    dx, dx0 = centre(x), centre(x0hat)
    spread = dx.new_zeros(len(count)).index_add_(0, which, (dx * dx).sum(1))
    shared = dx.new_zeros(len(count)).index_add_(0, which, (dx * dx0).sum(1))
    known = (spread > 0) & (noise_level.alpha > 0)
    slope = shared.clamp(min=0.0) / torch.where(known, spread, 1.0)
    variance = torch.where(known, slope * noise_level.sigma**2 / (noise_level.alpha or 1.0), noise_level.variance(1.0))
    return variance.cpu().numpy()[group]
