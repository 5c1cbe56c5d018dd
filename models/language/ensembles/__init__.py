"""Several prompts, of one model or of several with one vocabulary, whose next-token laws make one law."""

from feynkac.models.language.ensembles.model import Ensemble, ensemble

__all__ = ["Ensemble", "ensemble"]
