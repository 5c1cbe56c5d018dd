"""Potentials on the canvases of discrete diffusion, beyond those on any text."""

from feynkac.potentials.discrete.lookahead import Lookahead
from feynkac.potentials.tempering import tempered

__all__ = ["Lookahead", "tempered"]
