"""Discrete diffusion, masked and uniform, as models of the engine (see README.md beside this file)."""

from feynkac.models.discrete.acceptance import AutomatonGuided
from feynkac.models.discrete.analytic import ChainDenoiser
from feynkac.models.discrete.automata import CanvasAutomaton, build_automaton
from feynkac.models.discrete.composition import Composition, anneal, guide, multiply
from feynkac.models.discrete.denoiser import LogitsDenoiser
from feynkac.models.discrete.kernels import MaskedNoise, UniformNoise, Unmask
from feynkac.models.discrete.model import DiscreteDiffusion
from feynkac.models.discrete.proposals import Base, FirstOrder, LocallyOptimal, Unweighted, by_difference, by_gradient
from feynkac.models.discrete.schedules import cosine, linear

__all__ = [
    "AutomatonGuided",
    "Base",
    "CanvasAutomaton",
    "ChainDenoiser",
    "Composition",
    "DiscreteDiffusion",
    "FirstOrder",
    "LocallyOptimal",
    "LogitsDenoiser",
    "MaskedNoise",
    "UniformNoise",
    "Unmask",
    "Unweighted",
    "anneal",
    "build_automaton",
    "by_difference",
    "by_gradient",
    "cosine",
    "guide",
    "linear",
    "multiply",
]
