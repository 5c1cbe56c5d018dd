"""One dimension, where the tilted law is known by quadrature."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch

import feynkac as fk
from feynkac.models import diffusion as fd
from feynkac.potentials import diffusion as fp
from feynkac.smc import resample as schemes
from steered.published import Published, run
from steered.runs import Method, Numbers, best, even, shares, steered, total_variation
from steered.tables import table

PRIOR = fd.GaussianMixture([0.7, 0.3], [[-2.0], [3.0]], 0.25)
SCHEDULE = fd.ddpm(50)
BINS = np.linspace(-4.0, 5.0, 19)
SIZES = (4, 16, 64)


def reward(x: torch.Tensor) -> torch.Tensor:
    """-(x - 1)^2 / 2, highest between the modes at -2 and 3."""
    return -0.5 * (x[..., 0] - 1.0) ** 2


@functools.lru_cache(maxsize=1)
def chain(points: int = 1201) -> tuple[Numbers, Numbers]:
    """Samples of the base chain and their weights, by trapezoids, transition after transition."""
    grid = np.linspace(-9.0, 9.0, points) * SCHEDULE.start
    mass = np.exp(-0.5 * (grid / SCHEDULE.start) ** 2)
    mass /= mass.sum()
    for step in SCHEDULE.transitions:
        x = torch.as_tensor(grid)[:, None]
        x0hat = PRIOR.x0hat(x, step.before)
        mean = step.mean(x0hat, (x - step.before.alpha * x0hat) / step.before.sigma)[:, 0].numpy()
        if step.std == 0.0:
            grid = mean
            continue
        kept = mass > 1e-14 * mass.max()
        new = np.linspace(mean[kept].min() - 8 * step.std, mean[kept].max() + 8 * step.std, points)
        kernel = np.exp(-0.5 * ((new[:, None] - mean[None, kept]) / step.std) ** 2)
        mass = kernel @ mass[kept] * (new[1] - new[0]) / (math.sqrt(2 * math.pi) * step.std)
        grid = new
    return grid, mass


def methods() -> dict[str, Method]:
    """What is compared; all evaluate the denoiser once for each particle and step."""
    target = fk.reward(reward, batch=True)
    # The same reward as a likelihood, of which the engine knows how much of it is still open at each level.
    likelihood = fp.observed(fp.linear(torch.ones(1, 1)), torch.ones(1), noise=1.0)

    def ours(potential: Any = target, resample: Any = None, **proposal: Any) -> Method:
        chosen = fd.Guided(potential, **{"trust": None, **proposal}) if proposal else fd.BASE
        sampler = fd.DiffusionSampler(PRIOR, SCHEDULE, (1,), dtype=torch.float64, proposal=chosen)
        options = {"resample": resample} if resample else {}
        return lambda n, runs: steered(sampler, potential, n, runs, **options)

    def published(**options: Any) -> Method:
        return lambda n, runs: even(
            run(PRIOR, SCHEDULE, (1,), reward, Published(**options), (runs, n), np.random.default_rng(0))
        )

    plain, blind = ours(resample=schemes.never), ours(resample=schemes.never, through="denoiser", weighted=False)
    every = {"every": 1}
    return {
        "best of N": lambda n, runs: best(plain(n, runs), reward),
        "guidance without weights": lambda n, runs: even(blind(n, runs)[1]),
        "published FK, difference": published(),
        "published FK, difference, every step": published(**every),
        "published FK, difference, adaptive": published(adaptive=True, **every),
        "published FK, max, floor 0": published(potential="max"),
        "published FK, max, no floor": published(potential="max", floor=-50.0),
        "published FK, sum": published(potential="sum"),
        "importance sampling": plain,
        "feynkac, reward": ours(),
        "feynkac, observed, Guided": ours(likelihood, through="denoiser"),
    }


def compare(samples: int) -> list[dict[str, Any]]:
    """Print the table; `samples` particles for each N and method."""
    x, mass = chain()
    nats = reward(torch.as_tensor(x)[:, None]).numpy()
    tilted = mass * np.exp(nats)
    law = np.histogram(x, BINS, weights=tilted)[0]
    exact = np.histogram(np.random.default_rng(0).choice(x, samples, p=tilted / tilted.sum()), BINS)[0]
    rows = [_row("exact draws", [(total_variation(exact, law), tilted @ nats / tilted.sum())] * len(SIZES))]
    for name, method in methods().items():
        rows.append(_row(name, [_figures(method, n, samples // n, law) for n in SIZES]))
    table(rows, f"1-D mixture, quadratic reward, {len(SCHEDULE)} steps: log Z {math.log(tilted.sum()):.3f}")
    return rows


def _figures(method: Method, n: int, runs: int, law: Numbers) -> tuple[float, float]:
    log_w, x = method(n, runs)
    w = shares(log_w)
    found = np.histogram(x[..., 0].numpy(), BINS, weights=w)[0]
    return total_variation(found, law), float((w * reward(x).numpy()).sum(1).mean())


def _row(name: str, figures: list[tuple[float, float]]) -> dict[str, Any]:
    named = [(f"TV N={n}", f"reward N={n}") for n in SIZES]
    tv = {a: figure[0] for (a, _), figure in zip(named, figures, strict=True)}
    return {"method": name, **tv, **{b: figure[1] for (_, b), figure in zip(named, figures, strict=True)}}
