"""A proposal that leans on another denoiser, such as the exact posterior of a tractable model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from feynkac.base.capabilities import offers
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import as_real
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.denoisers import Denoiser
from feynkac.models.diffusion.shifted import Shifted
from feynkac.models.diffusion.tree import gather
from feynkac.smc.checks import name_of

if TYPE_CHECKING:
    from feynkac.base.contract import Rows
    from feynkac.models.diffusion.kernel import Transition
    from feynkac.models.diffusion.state import Latents


class Blended(Shifted):
    """The kernel moved towards what another denoiser expects, which knows what the samples are conditioned on.

    `posterior`: such a denoiser, as `GaussianMixture.observe` gives, a probabilistic circuit given its pixels, or a
    network that was trained with the condition. Without `prior` a `share` of x0hat is the posterior's, and the rest the
    network's (Liu et al. 2024, "Image inpainting via tractable steering of diffusion models", arXiv 2401.03349, in the
    form for Gaussian kernels). `prior`: the same model without the condition. The difference of the two is the gradient
    of log p(y | x) by Tweedie's formula, and what is drawn from is the kernel times p(y | next latent), to first order
    about the kernel's mean: exact in the limit of many steps where the network is the prior. `share`: a number, or a
    function of the noise level before the step. It acts at the first step, too, where all is noise.

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
            if each is not None and not offers(each, Denoiser):
                raise ArgumentError(f"Blended({quote(each)}): give a denoiser, an object with x0hat(x, noise_level)")
        if isinstance(share, type) or not (callable(share) or as_real(share) is not None):
            raise ArgumentError(f"Blended(share={quote(share)}): a number, or a function of the noise level")
        self.posterior, self.prior, self.share = posterior, prior, share

    def __repr__(self) -> str:
        from_ = "" if self.prior is None else f", prior={name_of(self.prior)}"
        return f"Blended({name_of(self.posterior)}{from_}{'' if self.weighted else ', weighted=False: biased'})"

    def check_noiseless(self) -> None:
        """Raises ArgumentError for a schedule that draws no noise, unless x0hat is moved without weights."""
        super().check_noiseless()
        if self.prior is not None:
            raise ArgumentError(f"{self} moves by what noise the kernel draws, here none; leave prior= out")

    def prepare(self, state: Latents) -> None:
        """Keep by how much x0hat is to move; with a prior nothing is known before the kernel's mean is."""
        if self.prior is None:
            super().prepare(state)

    def toward(self, state: Latents, part: Rows) -> Tensor:
        """(R, ...) by how much x0hat of the rows in `part` is to move."""
        level = state.noise_level
        own = gather(state.prediction.x0hat, part)
        return self._read_share(level) * (self._ask(self.posterior, gather(state.x, part), level) - own)

    def find_shift(self, state: Latents, transition: Transition, mean: Tensor) -> Tensor:
        """(N, ...) by how much the mean is to move, whatever the bound."""
        if self.prior is None:
            return super().find_shift(state, transition, mean)
        after = transition.after
        change = self._ask(self.posterior, mean, after) - self._ask(self.prior, mean, after)
        return self._read_share(transition.before) * transition.std**2 * after.alpha / after.sigma**2 * change

    def _read_share(self, level: NoiseLevel) -> float:
        given: Any = self.share(level) if callable(self.share) else self.share
        share = as_real(given)
        if share is None:
            raise ArgumentError(f"the share of {self} at {level} is {quote(given)}; return a finite number")
        return share

    def _ask(self, denoiser: Denoiser, x: Tensor, level: NoiseLevel) -> Tensor:
        with torch.no_grad():
            x0hat = denoiser.x0hat(x, level)
        if not isinstance(x0hat, Tensor) or x0hat.shape != x.shape:
            found = f"shape {tuple(x0hat.shape)}" if isinstance(x0hat, Tensor) else quote(x0hat)
            raise ArgumentError(
                f"{name_of(denoiser)} of {self} returned {found} for latents of shape "
                f"{tuple(x.shape)}; return one clean latent for each"
            )
        return x0hat.to(x)
