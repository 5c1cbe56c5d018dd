"""Inference: `await smc_standard(model, n_particles)` and `await smc_steer(model, n_particles, n_beam)`."""

from feynkac.programs.compat.llamppl.inference.driving import Particles
from feynkac.programs.compat.llamppl.inference.smc_standard import smc_standard
from feynkac.programs.compat.llamppl.inference.smc_steer import smc_steer

__all__ = ["Particles", "smc_standard", "smc_steer"]
