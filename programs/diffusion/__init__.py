"""Programs for diffusion models that are ready to run; each is short enough to be read, copied and changed."""

from feynkac.programs.diffusion.classes import of_class
from feynkac.programs.diffusion.inpainting import inpaint
from feynkac.programs.diffusion.molecules import drug_like
from feynkac.programs.diffusion.rewards import rewarded

__all__ = ["drug_like", "inpaint", "of_class", "rewarded"]
