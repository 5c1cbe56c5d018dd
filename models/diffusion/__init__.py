"""Diffusion and flow samplers as Feynman-Kac models."""

from feynkac.models.diffusion.composition import Composition, annealed, guidance, product
from feynkac.models.diffusion.decoding import on_pil
from feynkac.models.diffusion.denoisers import Denoiser, Network, Prediction, Predictor
from feynkac.models.diffusion.kernel import Level, Transition, ancestral, log_ratio, renoise
from feynkac.models.diffusion.mixtures import GaussianMixture
from feynkac.models.diffusion.proposals import BASE, Guided, Proposal
from feynkac.models.diffusion.sampler import DiffusionSampler
from feynkac.models.diffusion.schedule import NoiseSchedule, chain, ddim, ddpm, euler_ancestral, flow, lcm
from feynkac.models.diffusion.state import Latents, View

__all__ = [
    "BASE", "Composition", "Denoiser", "DiffusionSampler", "GaussianMixture", "Guided", "Latents", "Level",
    "Network", "NoiseSchedule", "Prediction", "Predictor", "Proposal", "Transition", "View", "ancestral",
    "annealed", "chain", "ddim", "ddpm", "euler_ancestral", "flow", "guidance", "lcm", "log_ratio", "on_pil",
    "product", "renoise",
]  # fmt: skip
