"""Images that a reward likes: the whole of reward-guided sampling, with two rewards to start from.

python -m feynkac.programs.recipes.diffusion rewarded demo --reward symmetry --out symmetric.png
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def rewarded(
    pipe: Any, reward: Callable[[Tensor], Any], scale: float = 40.0, steps: int = 50, eta: float | None = None
) -> tuple[Any, Any]:
    """Images of `pipe` (one of diffusers) weighted by exp(scale * reward(image)); images are (C, H, W) from 0 to 1.

        model, liked = rewarded(pipe, symmetry)
        result = feynkac.steer(model, liked, particles=32, seed=0)

    On the way the reward is asked of the clean image expected, which guides and is taken back (Singhal et al. 2025):
    the target holds the reward of the final image only, whatever the steps in between say.
    """
    from feynkac.models.diffusion.pipeline import Diffusion
    from feynkac.potentials import reward as weighted

    return Diffusion.from_pipeline(pipe, steps, eta), weighted(reward, scale=scale)


def brightness(image: Tensor) -> Tensor:
    """The mean of all pixels, from 0 to 1."""
    return image.mean()


def symmetry(image: Tensor) -> Tensor:
    """Minus the mean difference of an image (..., W) and its mirror image, from -1 to 0."""
    return -(image - image.flip(-1)).abs().mean()
