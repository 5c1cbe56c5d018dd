"""Potentials on the samples of diffusion and flow samplers, beyond those on samples of any kind."""

from feynkac.potentials.diffusion.observation import Observation, observed
from feynkac.potentials.diffusion.operators import Operator, deblurring, inpainting, linear, superresolution
from feynkac.potentials.diffusion.physics import Energy, chirality, clashes, distances
from feynkac.potentials.diffusion.tractable import Foreseen, foreseen
from feynkac.potentials.diffusion.twist import Twist, twist
from feynkac.potentials.tempering import tempered

__all__ = [
    "Energy", "Foreseen", "Observation", "Operator", "Twist", "chirality", "clashes", "deblurring", "distances",
    "foreseen", "inpainting", "linear", "observed", "superresolution", "tempered", "twist",
]  # fmt: skip
