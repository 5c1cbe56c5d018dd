"""The rest of an image of which a part is given.

python -m feynkac.programs.recipes.diffusion inpaint demo --out completed.png
python -m feynkac.programs.recipes.diffusion inpaint PIPELINE --image photo.png --out completed.png
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.extras import needing
from feynkac.base.numbers import as_whole
from feynkac.base.paths import read_path

if TYPE_CHECKING:
    from torch import Tensor


def inpaint(
    pipe: Any,
    image: Tensor,
    mask: Tensor,
    noise: float = 0.25,
    steps: int = 50,
    eta: float | None = None,
    prior: float = 0.2,
) -> tuple[Any, Any]:
    """Images of `pipe` given that the pixels of `image` where `mask` is True were seen, through Gaussian noise.

        model, seen = inpaint(pipe, image, mask)
        result = feynkac.steer(model, seen, particles=32, islands=4, seed=0)

    `image`: (C, H, W) from 0 to 1; `mask`: of the same shape, bool. `noise`: its standard deviation, in the units of
    the image: a smaller one asks for more particles. The evidence is the log-density of what was seen, in nats.
    Guesses on the way are those of pseudo-inverse guidance (Song et al. 2023), right for Gaussian pixels of variance
    `prior`; the target is the exact posterior whatever the images are. With few particles rather too wide a prior than
    too narrow: it errs by resampling late. Raises ArgumentError for shapes that do not fit.
    """
    import torch

    from feynkac.models.diffusion.pipeline import Diffusion
    from feynkac.potentials.diffusion import inpainting, observed
    from feynkac.tensors import read_tensor

    image = read_tensor("inpaint: image", image)
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
        raise ArgumentError(f"inpaint: mask is {quote(mask)}; give a tensor of bool, True where the image was seen")
    if mask.shape != image.shape:
        raise ArgumentError(f"the mask is {tuple(mask.shape)}, but the image {tuple(image.shape)}")
    return Diffusion.from_pipeline(pipe, steps, eta), observed(inpainting(mask), image[mask], noise, prior)


def left_half(image: Tensor) -> Tensor:
    """The mask of the left half of an image (C, H, W)."""
    import torch

    return (torch.arange(image.shape[-1], device="cpu") < image.shape[-1] // 2).expand(image.shape)


def digit(which: int = 2) -> Tensor:
    """(1, 8, 8) from 0 to 1: one of scikit-learn's 1,797 digits."""
    import torch

    with needing("digits", "the digits come with scikit-learn"):
        from sklearn.datasets import load_digits
    data: Any = load_digits()
    number = as_whole(which)
    if number is None or not 0 <= number < len(data.images):
        raise ArgumentError(f"there is no digit {quote(which)}; give a number from 0 to {len(data.images) - 1}")
    return torch.as_tensor(data.images[number] / 16, dtype=torch.float32)[None]


def photo(path: str) -> Tensor:
    """(3, H, W) from 0 to 1: the image in a file. Raises ArgumentError for what is no image."""
    import numpy as np
    import torch

    with needing("diffusion", "images are read by Pillow"):
        from PIL import Image

    file_path = read_path("photo: path", path)
    try:
        with Image.open(file_path) as file:
            pixels = np.asarray(file.convert("RGB"), dtype=np.float32) / 255
    except Exception as cause:  # of a file that is none, is cut off, or says that it is huge
        raise ArgumentError(f"cannot read the image {file_path}: {cause}") from cause
    return torch.as_tensor(pixels).permute(2, 0, 1)
