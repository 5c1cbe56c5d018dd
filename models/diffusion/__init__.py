"""Diffusion and flow samplers as Feynman-Kac models."""

from feynkac.models.diffusion.composition import Composition, annealed, guidance, product
from feynkac.models.diffusion.decoding import on_pil
from feynkac.models.diffusion.denoisers import Denoiser, Network, Prediction, Predictor
from feynkac.models.diffusion.kernel import Level, Transition, ancestral, log_ratio, renoise
from feynkac.models.diffusion.mixtures import GaussianMixture
from feynkac.models.diffusion.observation import Observation, observed
from feynkac.models.diffusion.operators import Operator, deblurring, inpainting, linear, superresolution
from feynkac.models.diffusion.proposals import BASE, Guided, Proposal
from feynkac.models.diffusion.roles import constraint, reward, twist
from feynkac.models.diffusion.sampler import DiffusionSampler
from feynkac.models.diffusion.schedule import NoiseSchedule, chain, ddim, ddpm, euler_ancestral, flow, lcm
from feynkac.models.diffusion.state import Latents, View
from feynkac.models.diffusion.tempering import tempered

__all__ = [
    "BASE", "Composition", "Denoiser", "DiffusionSampler", "GaussianMixture", "Guided", "Latents", "Level", "Network",
    "NoiseSchedule", "Observation", "Operator", "Prediction", "Predictor", "Proposal", "Transition", "View",
    "ancestral", "annealed", "chain", "constraint", "ddim", "ddpm", "deblurring", "euler_ancestral", "flow", "guidance",
    "inpainting", "lcm", "linear", "log_ratio", "observed", "on_pil", "product", "renoise", "reward", "superresolution",
    "tempered", "twist",
]  # fmt: skip
