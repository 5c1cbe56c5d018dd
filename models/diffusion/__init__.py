"""Diffusion and flow samplers as Feynman-Kac models."""

from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.blended import Blended
from feynkac.models.diffusion.composing import ComposedDenoiser
from feynkac.models.diffusion.composition import Composition, anneal, guide, multiply
from feynkac.models.diffusion.decoding import on_pil
from feynkac.models.diffusion.denoisers import Denoiser, Network, Prediction, Predictor, Recurrent
from feynkac.models.diffusion.generators import Langevin, generator
from feynkac.models.diffusion.guided import Guided
from feynkac.models.diffusion.kernel import Transition, ancestral, log_ratio, renoise, there_and_back
from feynkac.models.diffusion.mixtures import GaussianMixture
from feynkac.models.diffusion.paths import LatentPath
from feynkac.models.diffusion.proposals import BASE, Proposal
from feynkac.models.diffusion.sampler import DiffusionSampler
from feynkac.models.diffusion.schedule import (
    NoiseSchedule,
    chain,
    ddim,
    ddpm,
    edm,
    euler_ancestral,
    flow,
    karras_sigmas,
    lcm,
    revisit,
)  # fmt: skip
from feynkac.models.diffusion.semantic import Concept, EditedDenoiser, EditedProposal, SemanticGuidance
from feynkac.models.diffusion.sources import Denoisers, Source
from feynkac.models.diffusion.state import Latents, View

__all__ = [
    "BASE", "Blended", "ComposedDenoiser", "Composition", "Concept", "Denoiser", "Denoisers", "DiffusionSampler",
    "EditedDenoiser", "EditedProposal", "GaussianMixture", "Guided", "Langevin", "LatentPath", "Latents", "Network",
    "NoiseLevel", "NoiseSchedule", "Prediction", "Predictor", "Proposal", "Recurrent", "SemanticGuidance", "Source",
    "Transition", "View", "ancestral", "anneal", "chain", "ddim", "ddpm", "edm", "euler_ancestral", "flow",
    "generator", "guide", "karras_sigmas", "lcm", "log_ratio", "multiply", "on_pil", "renoise", "revisit",
    "there_and_back",
]  # fmt: skip
