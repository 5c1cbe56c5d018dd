"""Programs for diffusion models that are ready to run; each is short enough to be read, copied and changed."""

from feynkac.programs.recipes.diffusion.classes import of_class
from feynkac.programs.recipes.diffusion.inpainting import inpaint
from feynkac.programs.recipes.diffusion.molecules import drug_like
from feynkac.programs.recipes.diffusion.rewards import rewarded

__all__ = ["drug_like", "inpaint", "of_class", "rewarded"]
