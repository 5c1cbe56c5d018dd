"""A proposal that leans on another denoiser, such as the exact posterior of a tractable model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError
from feynkac.base.numbers import as_real
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.denoisers import Denoiser
from feynkac.models.diffusion.shifted import Shifted
from feynkac.models.diffusion.tree import gather
from feynkac.smc.checks import name_of

if TYPE_CHECKING:
    from feynkac.base.contract import Rows
    from feynkac.models.diffusion.state import Latents


class Blended(Shifted):
    """The kernel with its x0hat moved by a share of the way from one denoiser to another.

    `posterior`: a denoiser that knows what the samples are conditioned on, such as `GaussianMixture.observe` gives, a
    probabilistic circuit given its pixels, or a network that was trained with the condition. `prior`: the same model
    without the condition. x0hat then moves by share * (posterior.x0hat - prior.x0hat), which is the gradient of the
    prior's log p(y | x) by Tweedie's formula: exact where the network is the prior. Without `prior` it moves from the
    network's own x0hat to the posterior's, all of the way with a share of 1 (Liu et al. 2024, "Image inpainting via
    tractable steering of diffusion models", arXiv 2401.03349, in the form for Gaussian kernels). `share`: a number, or
    a function of the noise level. Unlike a gradient of x0hat it acts at the first step, too, where all is noise.

    `trust` and `weighted` are those of `Guided`: the target does not depend on the move, whose log-ratio is weighed.
    Raises ArgumentError for what is no denoiser, and for numbers that cannot be.
    """

    def __init__(
        self,
        posterior: Denoiser,
        prior: Denoiser | None = None,
        *,
        share: float | Callable[[NoiseLevel], float] = 1.0,
        trust: float | None = 1.0,
        weighted: bool = True,
    ) -> None:
        super().__init__(trust, weighted)
        for each in (posterior, prior):
            if each is not None and not isinstance(each, Denoiser):
                raise ArgumentError(f"Blended({each!r}): give a denoiser, an object with x0hat(x, noise_level)")
        if not callable(share) and as_real(share) is None:
            raise ArgumentError(f"Blended(share={share!r}): a number, or a function of the noise level")
        self.posterior, self.prior, self.share = posterior, prior, share

    def __repr__(self) -> str:
        from_ = "" if self.prior is None else f", prior={name_of(self.prior)}"
        return f"Blended({name_of(self.posterior)}{from_}{'' if self.weighted else ', weighted=False: biased'})"

    def toward(self, state: Latents, part: Rows) -> Tensor:
        """(R, ...) by how much x0hat of the rows in `part` is to move."""
        x, level = gather(state.x, part), state.noise_level
        own = gather(state.prediction.x0hat, part)
        with torch.no_grad():
            start = own if self.prior is None else self._ask(self.prior, x, level)
            return self._read_share(level) * (self._ask(self.posterior, x, level) - start)

    def _read_share(self, level: NoiseLevel) -> float:
        given: Any = self.share(level) if callable(self.share) else self.share
        share = as_real(given)
        if share is None:
            raise ArgumentError(f"the share of {self} at {level} is {given!r}; return a finite number")
        return share

    def _ask(self, denoiser: Denoiser, x: Tensor, level: NoiseLevel) -> Tensor:
        x0hat = denoiser.x0hat(x, level)
        if x0hat.shape != x.shape:
            raise ArgumentError(
                f"{name_of(denoiser)} of {self} returned shape {tuple(x0hat.shape)} for latents of shape "
                f"{tuple(x.shape)}; return one clean latent for each"
            )
        return x0hat.to(x)
