"""What weighs the samples of diffusion and flow samplers."""

from feynkac.potentials.diffusion.observation import Observation, observed
from feynkac.potentials.diffusion.operators import Operator, deblurring, inpainting, linear, superresolution
from feynkac.potentials.diffusion.roles import Guess, constraint, reward, twist
from feynkac.potentials.tempering import tempered

__all__ = [
    "Guess", "Observation", "Operator", "constraint", "deblurring", "inpainting", "linear", "observed", "reward",
    "superresolution", "tempered", "twist",
]  # fmt: skip
