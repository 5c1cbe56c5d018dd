"""Discrete diffusion, masked and uniform, as models of the engine (see README.md beside this file)."""

from feynkac.models.discrete.acceptance import Guided
from feynkac.models.discrete.analytic import ChainDenoiser
from feynkac.models.discrete.automata import CanvasAutomaton, canvas_automaton
from feynkac.models.discrete.composition import Composition, annealed, guidance, product
from feynkac.models.discrete.denoiser import LogitsDenoiser
from feynkac.models.discrete.kernels import Masked, Uniform, Unmask
from feynkac.models.discrete.model import DiscreteDiffusion
from feynkac.models.discrete.proposals import Base, FirstOrder, LocallyOptimal, Unweighted, by_difference, by_gradient
from feynkac.models.discrete.schedules import cosine, linear

__all__ = [
    "Base",
    "CanvasAutomaton",
    "ChainDenoiser",
    "Composition",
    "DiscreteDiffusion",
    "FirstOrder",
    "Guided",
    "LocallyOptimal",
    "LogitsDenoiser",
    "Masked",
    "Uniform",
    "Unmask",
    "Unweighted",
    "annealed",
    "by_difference",
    "by_gradient",
    "canvas_automaton",
    "cosine",
    "guidance",
    "linear",
    "product",
]
