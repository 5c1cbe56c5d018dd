"""Recipes: programs that are ready to run, each short enough to be read, copied and changed."""

from feynkac.programs.recipes.choosing import choose, explain
from feynkac.programs.recipes.coding import solve
from feynkac.programs.recipes.evolving import evolve
from feynkac.programs.recipes.extraction import extract
from feynkac.programs.recipes.infilling import infill
from feynkac.programs.recipes.intersection import intersect
from feynkac.programs.recipes.letters import avoid
from feynkac.programs.recipes.planning import converse
from feynkac.programs.recipes.questioning import justify
from feynkac.programs.recipes.reasoning import reason
from feynkac.programs.recipes.speculation import speculate
from feynkac.programs.recipes.supporting import support
from feynkac.programs.recipes.syllables import haiku
from feynkac.programs.recipes.thinking import think
from feynkac.programs.recipes.translating import translate
from feynkac.programs.recipes.voting import vote
from feynkac.programs.recipes.words import short_words

__all__ = [
    "avoid",
    "choose",
    "converse",
    "evolve",
    "explain",
    "extract",
    "haiku",
    "infill",
    "intersect",
    "justify",
    "reason",
    "short_words",
    "solve",
    "speculate",
    "support",
    "think",
    "translate",
    "vote",
]
