"""Guided proposals in 80 dimensions: a gradient of x0hat alone, beside one through the whole denoiser."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from feynkac.models import diffusion as fd
from feynkac.potentials import diffusion as fp
from feynkac.smc.engine import smc
from feynkac.smc.rng import Streams
from steered.runs import SSP
from steered.tables import table

SIZE, SEEN = 80, 4


def problem(seed: int) -> tuple[fd.GaussianMixture, fp.Observation, float]:
    """A mixture of 25 modes on a grid, a random linear observation of it, and the exact log evidence in nats.

    Cardoso et al. (2023), "Monte Carlo guided diffusion for Bayesian linear inverse problems", section 4.
    """
    rng = np.random.default_rng(seed)
    modes = [[8.0 * i, 8.0 * j] * (SIZE // 2) for i in range(-2, 3) for j in range(-2, 3)]
    prior = fd.GaussianMixture(rng.chisquare(3, 25), modes, 1.0)
    left, _ = np.linalg.qr(rng.standard_normal((SEEN, SEEN)))
    right, _ = np.linalg.qr(rng.standard_normal((SIZE, SEEN)))
    matrix, noise = left @ np.diag(np.sort(rng.uniform(0, 1, SEEN))) @ right.T, float(rng.uniform(0.1, 0.5))
    x = prior.sample(1, torch.Generator().manual_seed(seed))[0].numpy()
    y = matrix @ x + noise * rng.standard_normal(SEEN)
    log_z, _ = prior.observe(matrix, y, noise**2)
    return prior, fp.observed(fp.linear(torch.as_tensor(matrix)), torch.as_tensor(y), noise), log_z


def compare(particles: int, steps: int, problems: int, runs: int) -> dict[str, float]:
    """Print the table, of the errors of the log evidence over all problems and runs, and of processor time."""
    errors: dict[str, list[float]] = {}
    spent: dict[str, list[float]] = {}
    for seed in range(problems):
        prior, likelihood, log_z = problem(seed)
        proposals = {
            "no gradient": fd.BASE,
            "gradient of x0hat": fd.Guided(likelihood, trust=None),
            "gradient through the denoiser": fd.Guided(likelihood, through="denoiser", trust=None),
        }
        for run in range(runs):
            for name, proposal in proposals.items():  # in turns, so that a noisy machine moves all alike
                sampler = fd.DiffusionSampler(prior, fd.ddpm(steps), (SIZE,), dtype=torch.float64, proposal=proposal)
                began = time.process_time()
                *_, last = smc(sampler, likelihood, n=particles, resample=SSP, rng=Streams(run))
                spent.setdefault(name, []).append((time.process_time() - began) / steps)
                errors.setdefault(name, []).append(last.log_z - log_z)
    full = statistics.median(spent["gradient through the denoiser"])
    rows: list[dict[str, Any]] = [
        {
            "proposal": name,
            "RMSE, nats": float(np.sqrt(np.mean(np.square(found)))),
            "mean": float(np.mean(found)),
            "sd in a problem": float(np.mean([np.std(part) for part in np.split(np.array(found), problems)])),
            "ms a step": 1e3 * statistics.median(spent[name]),
            "of the full gradient": statistics.median(spent[name]) / full,
        }
        for name, found in errors.items()
    ]
    table(
        rows, f"{SIZE}-D mixture seen through {SEEN} numbers, N={particles}, {steps} steps: error of the log evidence"
    )
    return {f"{row['proposal']}, {key}": row[key] for row in rows for key in ("RMSE, nats", "of the full gradient")}
