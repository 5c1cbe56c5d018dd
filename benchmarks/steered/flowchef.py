"""FlowChef: gradients at x0hat on a rectified flow, weighed, beside the method as it was published.

The flow model is the digits network in other coordinates: x = (1 - s) x0 + s eps is a multiple of a latent at the noise
level with the same ratio of signal and noise, so that with fresh noise (eta = 1) the flow's samples have the law of the
pipeline's, whose posteriors `train/digits_truth.py` has found by importance sampling. The published method follows the
flow's ODE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from train import digits_truth as truth

import feynkac as fk
from feynkac.models import diffusion as fd
from feynkac.models.diffusion.denoisers import Prediction
from feynkac.models.diffusion.schedulers import prediction_of, schedule_of
from feynkac.potentials import diffusion as fp
from feynkac.smc import resample as schemes
from steered.runs import SSP, Numbers, engine, shares, total_variation
from steered.tables import table

RATES = (0.1, 0.3, 1.0, 3.0)
"""The constant steps that are tried for the published method, of which the best is shown."""


def show(x: Tensor) -> Tensor:
    """(R, 1, 8, 8) images from 0 to 1, as the pipeline makes them of its latents."""
    return (x / 2 + 0.5).clamp(0, 1)


class Flow:
    """The digits network as a flow model, with its scheduler's own clipping."""

    def __init__(self) -> None:
        pipe = truth.pipeline()
        pipe.scheduler.set_timesteps(truth.STEPS)
        self.unet, self.scheduler = pipe.unet.requires_grad_(False), pipe.scheduler
        steps = schedule_of(pipe.scheduler, eta=1.0).transitions
        self._known = {step.before.time: step.before for step in steps}
        levels = [step.before for step in steps] + [steps[-1].after]
        self.levels = [
            fd.NoiseLevel(v.alpha / (v.alpha + v.sigma), v.sigma / (v.alpha + v.sigma), v.time) for v in levels
        ]
        self._start = 1.0 / (levels[0].alpha + levels[0].sigma)

    def schedule(self, eta: float) -> fd.NoiseSchedule:
        """The flow with fresh noise, or with eta = 0 its ODE."""
        return fd.chain(self.levels, lambda t, s: fd.ancestral(t, s, eta), self._start)

    def predict(self, x: Tensor, t: fd.NoiseLevel, /) -> Prediction:
        own = self._known[t.time]
        x = x * (own.alpha + own.sigma)
        return prediction_of(self.scheduler, self.unet(x, t.time).sample, x, own)


@dataclass(frozen=True)
class Problem:
    """One target, and what importance sampling says of it."""

    name: str
    potential: Any
    log_psi: Callable[[Tensor], Tensor]
    """(R, 1, 8, 8) latents to (R,) nats: what the published method climbs."""
    log_evidence: float
    mean: Numbers
    """(75,) posterior means of `truth.FEATURES`."""


def problems(*names: str) -> list[Problem]:
    """Those of `names`: "half" and "sharp half" to be filled in, "blurred", "coarse", and a "class"."""
    known = dict(np.load(truth.OUT))
    classifier = known["weight"], known["bias"]
    kernel, image = torch.full((3, 3), 1 / 9), truth.image()
    seen = {name: (fp.inpainting(truth.left_half()), truth.seen(), noise) for name, noise in truth.NOISES.items()} | {
        "blurred": (fp.deblurring(kernel, 8, 8), truth.blur(image).reshape(1, 8, 8), truth.SEEN_WHOLE["blurred"]),
        "coarse": (fp.superresolution(2), truth.pool(image).reshape(1, 4, 4), truth.SEEN_WHOLE["coarse"]),
    }
    potentials = {name: fp.observed(*each, prior=0.1) for name, each in seen.items()}
    potentials["class"] = fk.reward(lambda x: truth.classify(x, classifier)[:, truth.CLASS], batch=True)
    targets = truth.targets(classifier)
    return [
        Problem(
            name, potentials[name], lambda x, f=targets[name]: f(show(x)), float(known[f"{name}/log_evidence"]),
            known[f"{name}/mean"],
        )
        for name in names
    ]  # fmt: skip


def published(flow: Flow, log_psi: Callable[[Tensor], Tensor], rate: float, n: int, seed: int = 0) -> Tensor:
    """(n, 1, 8, 8) samples of the flow's ODE, led by constant steps along the gradient at x0hat (Patel et al. 2024)."""
    schedule, source = flow.schedule(0.0), torch.Generator().manual_seed(seed)
    x = schedule.start * torch.randn(n, 1, 8, 8, generator=source)
    for step in schedule.transitions:
        with torch.no_grad():
            said = flow.predict(x, step.before)
        leaf = said.x0hat.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(log_psi(leaf).sum(), leaf)
        # The latent is moved, and then goes on with the velocity that it had.
        x = step.mean(said.x0hat, said.epshat) + rate * gradient
    return x


def measure(problem: Problem, method: str, x: Tensor, log_w: Numbers, weighted: bool = False) -> dict[str, Any]:
    """A row: of (runs, N) samples the TV of the classes and the error of the mean image, and that of the evidence."""
    w = shares(log_w)
    found = (w / len(w)).ravel() @ truth.features(show(x), truth.fitted())
    off = np.logaddexp.reduce(log_w, axis=1) - problem.log_evidence
    return {
        "problem": problem.name,
        "method": method,
        "TV": total_variation(found[:10], problem.mean[:10]),
        "image": float(np.sqrt(np.mean((found[10:74] - problem.mean[10:74]) ** 2))),
        "log Z": float(np.sqrt(np.mean(off**2))) if weighted else None,
    }


def compare(n: int, runs: int) -> list[dict[str, Any]]:
    """Print the table: every method has N particles, and as many passes of the network."""
    flow, rows = Flow(), list[dict[str, Any]]()
    for problem in problems("half", "blurred", "coarse", "class"):
        target = problem.potential

        def ours(
            name: str, proposal: Any = fd.BASE, resample: Any = SSP, target: Any = target, problem: Problem = problem
        ) -> None:
            sampler = fd.DiffusionSampler(flow, flow.schedule(1.0), (1, 8, 8), decode=show, proposal=proposal)
            last = engine(sampler, target, n, runs, resample)
            log_w = np.zeros((runs, n)) if sampler.biased else last.log_weight.reshape(runs, n)
            rows.append(measure(problem, name, last.state.x, log_w, weighted=not sampler.biased))

        ours("importance sampling", resample=schemes.never)
        ours("SMC, the model's own kernel")
        ours("SMC, Guided, trust=1", fd.Guided(target))
        ours("SMC, Guided, trust=None", fd.Guided(target, trust=None))
        ours("Guided without weights, eta=1", fd.Guided(target, trust=None, weighted=False), schemes.never)
        even = np.zeros((runs, n))
        tried = [
            measure(
                problem, f"FlowChef as published, rate {rate:g}", published(flow, problem.log_psi, rate, n * runs), even
            )
            for rate in RATES
        ]
        rows.append(min(tried, key=lambda row: row["TV"]))
    table(rows, f"digits flow, N={n}, {runs} runs of {truth.STEPS} steps: off the truth by importance sampling")
    return rows
