"""What weighs the canvases of discrete diffusion, beyond what weighs any text."""

from feynkac.potentials.discrete.acceptance import Acceptance, foreseen
from feynkac.potentials.discrete.lookahead import Lookahead

__all__ = ["Acceptance", "Lookahead", "foreseen"]
