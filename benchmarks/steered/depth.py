"""Depths from an image and a few measured points, in the manner of SteeredMarigold, where the posterior is known.

Scenes are planes with boxes before them; the image shows relative depth only, with noise. The model of depth given an
image is a mixture of Gaussians fitted to scenes and images together, which is a denoiser for every image, and whose
posterior given the points is exact: the truth is a closed form.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from feynkac.models import diffusion as fd
from feynkac.potentials import diffusion as fp
from feynkac.smc import resample as schemes
from steered.runs import SSP, Numbers, engine, shares
from steered.tables import table

SIDE, STEPS, COMPONENTS, NOISE = 8, 20, 12, 0.1
POINTS = (2, 5, 10, 20)
REACH = 1.5
"""Pixels over which the published method spreads what it finds wrong at a point."""


def scenes(n: int, seed: int) -> tuple[Numbers, Numbers]:
    """(n, 64) depths, and as many images: relative depth, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) - 0.5
    a, b, c = (rng.normal(0, sd, (n, 1, 1)) for sd in (1.0, 0.7, 0.7))
    depth = a + b * x + c * y
    for _ in range(2):
        top, left = rng.integers(0, SIDE - 2, (2, n, 1, 1))
        height, width = rng.integers(2, SIDE // 2 + 2, (2, n, 1, 1))
        rows, columns = np.arange(SIDE)[:, None], np.arange(SIDE)
        inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
        depth = np.where(inside, depth - rng.uniform(0.3, 1.0, (n, 1, 1)), depth)
    depth = depth.reshape(n, -1)
    relative = (depth - depth.mean(1, keepdims=True)) / depth.std(1, keepdims=True)
    return depth, relative + rng.normal(0, 0.3, depth.shape)


class Model:
    """The mixture of depths and images together."""

    def __init__(self, count: int) -> None:
        from sklearn.mixture import GaussianMixture

        both = np.concatenate(scenes(count, 0), axis=1)
        fitted = GaussianMixture(COMPONENTS, reg_covar=1e-2, random_state=0, max_iter=20).fit(both)
        self.joint = fd.GaussianMixture(fitted.weights_, fitted.means_, fitted.covariances_)

    def given(self, image: Numbers) -> fd.GaussianMixture:
        """Depths (R, 64) given one image."""
        size = SIDE**2
        _, law = self.joint.observe(torch.eye(2 * size)[size:], image, 1e-4)
        return fd.GaussianMixture(law.weights, law.means[:, :size], law.covariances[:, :size, :size])


def steered(law: fd.GaussianMixture, where: Tensor, y: Tensor, n: int, seed: int = 0) -> Tensor:
    """(n, 64) samples whose x0hat is set right at the points at every step, and around them, without weights."""
    at = torch.stack(torch.meshgrid(*[torch.arange(SIDE)] * 2, indexing="ij"), -1).reshape(-1, 2).double()
    near = torch.exp(-((at[:, None] - at[where][None]) ** 2).sum(-1) / (2 * REACH**2))
    spread = near / near.sum(1, keepdim=True).clamp(min=1.0)
    schedule, source = fd.flow(STEPS), torch.Generator().manual_seed(seed)
    x = schedule.start * torch.randn(n, SIDE**2, generator=source, dtype=torch.float64)
    for step in schedule.transitions:
        clean = law.x0hat(x, step.before)
        clean = clean + (y - clean[:, where]) @ spread.T
        eps = (x - step.before.alpha * clean) / step.before.sigma
        x = step.mean(clean, eps) + step.std * torch.randn(x.shape, generator=source, dtype=torch.float64)
    return x


def compare(n: int, runs: int, count: int, train: int) -> list[dict[str, Any]]:
    """Print the table of the errors of posterior means, over `count` scenes; every method has N particles."""
    model, found = Model(train), dict[str, dict[str, list[float]]]()
    for k, (depth, image) in enumerate(zip(*scenes(count, 1), strict=True)):
        law = model.given(image)
        order = torch.as_tensor(np.random.default_rng(k).permutation(SIDE**2))
        for points in POINTS:
            where = order[:points].sort().values
            mask = torch.zeros(SIDE**2, dtype=torch.bool)
            mask[where] = True
            y = torch.as_tensor(depth)[where] + NOISE * torch.randn(
                points, generator=torch.Generator().manual_seed(k), dtype=torch.float64
            )
            log_z, exact = law.observe(torch.eye(SIDE**2)[where], y, NOISE**2)
            seen = fp.observed(fp.inpainting(mask), y, NOISE)

            def note(name: str, mean: Numbers, truth: Numbers = depth, points: int = points) -> None:
                error = float(np.sqrt(np.mean((mean - truth) ** 2)))
                found.setdefault(name, {}).setdefault(f"{points} points", []).append(error)

            def ours(proposal: Any, law: Any = law, seen: Any = seen) -> tuple[Numbers, Numbers]:
                sampler = fd.DiffusionSampler(law, fd.flow(STEPS), (SIDE**2,), dtype=torch.float64, proposal=proposal)
                last = engine(sampler, seen, n, runs, schemes.never if sampler.biased else SSP)
                log_w = last.log_weight.reshape(runs, n)
                w = shares(np.zeros_like(log_w) if sampler.biased else log_w)
                return np.einsum("rn,rnd->rd", w, last.state.x.reshape(runs, n, -1).numpy()), log_w

            whole = law.weights @ law.means
            centre = (exact.weights @ exact.means).numpy()
            note("the model without points", whole.numpy())
            note("exact posterior mean", centre)
            note("x0hat set right, no weights", steered(law, where, y, runs * n).reshape(runs, n, -1).mean(1).numpy())
            note("Guided without weights", ours(fd.Guided(seen, trust=None, weighted=False))[0])
            for name, proposal in {
                "SMC, own kernel": fd.BASE,
                "SMC, Guided": fd.Guided(seen),
                "SMC, Blended": fd.Blended(exact, law, trust=None),
            }.items():
                mean, log_w = ours(proposal)
                note(name, mean)
                off = np.logaddexp.reduce(log_w, axis=1) - log_z
                found[name].setdefault(f"log Z, {points}", []).append(float(np.sqrt(np.mean(off**2))))
    heads = list(found["SMC, Guided"])
    rows = [
        {"method": name, **{head: float(np.mean(each[head])) if head in each else None for head in heads}}
        for name, each in found.items()
    ]
    table(
        rows,
        f"depth, {count} scenes, N={n}, {runs} runs of {STEPS} steps: RMSE against the scene, and of the log evidence",
    )
    return rows
