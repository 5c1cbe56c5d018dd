"""Generation programs: plain Python functions that the engine runs as particles."""

from feynkac.base.errors import ProgramError, ReplayDiverged
from feynkac.base.tokens import Token, TokenSet
from feynkac.programs.context import Context
from feynkac.programs.distribution import Distribution
from feynkac.programs.distributions import Bernoulli, Categorical, Geometric, Normal, Uniform
from feynkac.programs.particle import Particle
from feynkac.programs.program import Program, program

__all__ = [
    "Bernoulli",
    "Categorical",
    "Context",
    "Distribution",
    "Geometric",
    "Normal",
    "Particle",
    "Program",
    "ProgramError",
    "ReplayDiverged",
    "Token",
    "TokenSet",
    "Uniform",
    "program",
]
