"""Inpainting by a tractable model of digits: an exact mixture guesses and proposes, a network's law is sampled.

The mixture is fitted to the data in a second, and knows p(pixels seen | noisy latent). It draws worse digits than the
network: so it may lead, and the weights say how far (Liu et al. 2024, arXiv 2401.03349, blend it in without weights).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from train import digits_truth as truth

from feynkac.models import diffusion as fd
from feynkac.potentials import diffusion as fp
from feynkac.smc import resample as schemes
from steered.flowchef import Flow, Problem, measure, problems, show
from steered.runs import SSP, engine
from steered.tables import table

COMPONENTS, RIDGE = 20, 0.05


def mixture() -> fd.GaussianMixture:
    """A mixture of Gaussians over the latents of digits, from -1 to 1."""
    from sklearn.datasets import load_digits
    from sklearn.mixture import GaussianMixture

    data = load_digits().data / 8 - 1
    fitted = GaussianMixture(COMPONENTS, reg_covar=RIDGE, random_state=0, max_iter=30).fit(data)
    return fd.GaussianMixture(fitted.weights_, fitted.means_, fitted.covariances_)


def replaced(flow: Flow, noise: float, n: int, seed: int = 0) -> Tensor:
    """(n, 1, 8, 8) samples whose seen pixels are put in place of the latent's at every level (Lugmayr et al. 2022)."""
    schedule, source = flow.schedule(1.0), torch.Generator().manual_seed(seed)
    seen, y = truth.left_half(), 2 * truth.seen() - 1
    x = schedule.start * torch.randn(n, 1, 8, 8, generator=source)
    for step in schedule.transitions:
        said = flow.predict(x, step.before)
        x = step.mean(said.x0hat, said.epshat) + step.std * torch.randn(x.shape, generator=source)
        # What is seen has noise of its own, which the latent has already where its noise is larger.
        own = max(step.after.sigma, 2 * noise * step.after.alpha)
        x[:, seen] = step.after.alpha * y + own * torch.randn(n, len(y), generator=source)
    return x


@torch.no_grad()
def compare(n: int, runs: int) -> list[dict[str, Any]]:
    """Print the table: every method has N particles, and as many passes of the network."""
    flow, prior, rows = Flow(), mixture(), list[dict[str, Any]]()
    matrix = torch.eye(64)[truth.left_half().flatten()]
    for problem in problems("half", "sharp half"):
        noise = truth.NOISES[problem.name]
        log_z, posterior = prior.observe(matrix, 2 * truth.seen() - 1, (2 * noise) ** 2)
        log_z += matrix.shape[0] * np.log(2.0)  # y is a density of brightness, from 0 to 1
        seen = problem.potential
        foreseen = fp.foreseen(seen, prior, posterior, log_z)

        def ours(
            name: str, potential: Any, proposal: Any = fd.BASE, resample: Any = SSP, problem: Problem = problem
        ) -> None:
            sampler = fd.DiffusionSampler(flow, flow.schedule(1.0), (1, 8, 8), decode=show, proposal=proposal)
            last = engine(sampler, potential, n, runs, resample)
            log_w = np.zeros((runs, n)) if sampler.biased else last.log_weight.reshape(runs, n)
            rows.append(measure(problem, name, last.state.x, log_w, weighted=not sampler.biased))

        ours("importance sampling", seen, resample=schemes.never)
        ours("inpainting: observed", seen)
        ours("inpainting: observed, Guided", seen, fd.Guided(seen))
        rows.append(
            measure(problem, "pixels replaced, no weights", replaced(flow, noise, n * runs), np.zeros((runs, n)))
        )
        half = {"share": 0.5, "trust": None, "weighted": False}
        ours("blended by half, no weights", seen, fd.Blended(posterior, **half), schemes.never)
        ours("foreseen by the mixture", foreseen)
        ours("foreseen and blended, trust=1", foreseen, fd.Blended(posterior, prior))
        ours("foreseen and blended, trust=None", foreseen, fd.Blended(posterior, prior, trust=None))
        ours("the mixture's own posterior", seen, fd.Blended(posterior, trust=None, weighted=False), schemes.never)
    table(rows, f"half of a digit, N={n}, {runs} runs of {truth.STEPS} steps: off the truth by importance sampling")
    return rows
