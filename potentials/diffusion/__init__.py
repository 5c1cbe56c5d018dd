"""Potentials on the samples of diffusion and flow samplers, beyond those on samples of any kind."""

from feynkac.potentials.diffusion.observation import Observation, observed
from feynkac.potentials.diffusion.operators import Operator, deblurring, inpainting, linear, superresolution
from feynkac.potentials.diffusion.twist import Twist, twist
from feynkac.potentials.tempering import tempered

__all__ = [
    "Observation", "Operator", "Twist", "deblurring", "inpainting", "linear", "observed", "superresolution", "tempered",
    "twist",
]  # fmt: skip
