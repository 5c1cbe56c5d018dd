"""Programs that are ready to run; each is short enough to be read, copied and changed."""

from feynkac.programs.library.extraction import extract
from feynkac.programs.library.infilling import infill
from feynkac.programs.library.intersection import intersect
from feynkac.programs.library.letters import avoid
from feynkac.programs.library.reasoning import reason
from feynkac.programs.library.speculation import speculate
from feynkac.programs.library.syllables import haiku
from feynkac.programs.library.voting import vote
from feynkac.programs.library.words import short_words

__all__ = ["avoid", "extract", "haiku", "infill", "intersect", "reason", "short_words", "speculate", "vote"]
