"""A trained network: digits of a wanted class, at equal numbers of network evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import feynkac as fk
from feynkac.models import diffusion as fd
from feynkac.models.diffusion.denoisers import Prediction
from feynkac.models.diffusion.schedulers import prediction_of, schedule_of
from feynkac.potentials import diffusion as fp
from feynkac.smc import resample as schemes
from steered.published import Published, run
from steered.runs import Drawn, Method, Numbers, best, cells, even, quantiles, shares, steered, total_variation
from steered.tables import table

FOLDER = Path(__file__).parents[1] / "train" / "digits"
SHAPE, SCALE, STEPS, PARTS = (1, 8, 8), 2.0, 10, 4
SIZES = (4, 16)


class Network:
    """The pipeline's network, with its scheduler's own clipping."""

    def __init__(self, pipe: Any, steps: int = STEPS) -> None:
        pipe.scheduler.set_timesteps(steps)
        pipe.unet.requires_grad_(False)
        self.unet, self.scheduler = pipe.unet, pipe.scheduler
        self.schedule = schedule_of(pipe.scheduler, eta=1.0)

    def predict(self, x: Tensor, t: fd.NoiseLevel, /) -> Prediction:
        return prediction_of(self.scheduler, self.unet(x, t.time).sample, x, t)


def pixels(x: Tensor) -> Tensor:
    """(R, 64) from 0 to 1."""
    return (x / 2 + 0.5).clamp(0, 1).flatten(1)


class Judges:
    """A linear classifier that rewards, and a support-vector machine that judges, each trained on its own half."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression
        from sklearn.svm import SVC

        data = load_digits()
        x, y = data.images.reshape(-1, 64) / 16, data.target
        order = np.random.default_rng(0).permutation(len(y))
        mine, other = order[: len(y) // 2], order[len(y) // 2 :]
        linear = LogisticRegression(C=1.0, max_iter=500).fit(x[mine], y[mine])
        self.weight, self.bias = (torch.as_tensor(each).float() for each in (linear.coef_, linear.intercept_))
        self._judge = SVC(C=10.0, gamma="scale").fit(x[other], y[other])

    def log_prob(self, x: Tensor) -> Tensor:
        """(R, 10) nats of latents (R, 1, 8, 8), by the classifier that rewards."""
        return (pixels(x) @ self.weight.T + self.bias).log_softmax(1)

    def classes(self, x: Tensor) -> NDArray[np.int64]:
        """(R,) by the other."""
        return self._judge.predict(pixels(x).numpy())


class Task:
    """One class to be drawn, its reward, and what is known of the target from many samples of the base model."""

    def __init__(self, network: Network, judges: Judges, wanted: int, base: Tensor) -> None:
        self.network, self.judges, self.wanted, self.base = network, judges, wanted, base
        self.share = shares(self.reward(base).double().numpy()[None])[0]
        self.ess = 1.0 / (self.share**2).sum()
        self.edges = [quantiles(each, self.share, PARTS) for each in self._features(base)]
        self.law = cells(self._features(base), self.edges, self.share)

    def reward(self, x: Tensor) -> Tensor:
        """(R,) nats."""
        return SCALE * self.judges.log_prob(x)[:, self.wanted]

    def _features(self, x: Tensor) -> tuple[Numbers, Numbers]:
        return self.reward(x).double().numpy(), pixels(x).mean(1).double().numpy()

    def figures(self, drawn: Drawn) -> Numbers:
        """Accuracy by the judge, mean log p, mean over runs of the best log p, then the mass of each cell."""
        log_w, x = drawn
        w, flat = shares(log_w), x.flatten(0, 1)
        weight, nats = (w / len(w)).ravel(), self.reward(flat).double().numpy()
        right = self.judges.classes(flat) == self.wanted
        top = np.where(w > 0, nats.reshape(w.shape), -np.inf).max(axis=1).mean()
        mass = cells(self._features(flat), self.edges, weight)
        return np.concatenate([[weight @ right, weight @ nats / SCALE, top / SCALE], mass])


def methods(task: Task, pool: Tensor) -> dict[str, Method]:
    """What is compared; all evaluate the network once for each particle and step.

    `pool`: other samples of the base model, (M, 1, 8, 8), for the methods that choose among such.
    """
    network, target = task.network, fk.reward(task.reward, batch=True)
    gradual = fp.tempered(target, ess=0.5)

    def ours(proposal: Any = fd.BASE, potential: Any = target, **options: Any) -> Method:
        sampler = fd.DiffusionSampler(network, network.schedule, SHAPE, proposal=proposal)
        return lambda n, runs: steered(sampler, potential, n, runs, **options)

    def blind(through: Any) -> Method:
        guided = ours(fd.Guided(target, through=through, trust=None, weighted=False), resample=schemes.never)
        return lambda n, runs: even(guided(n, runs)[1])

    def published(**options: Any) -> Method:
        rng = np.random.default_rng(0)
        return lambda n, runs: even(
            run(network, network.schedule, SHAPE, task.reward, Published(**options), (runs, n), rng, torch.float32)
        )

    def blocks(n: int) -> Tensor:
        return pool[: len(pool) // n * n].reshape(-1, n, *SHAPE)

    def exact(n: int, runs: int) -> Drawn:
        rows = np.random.default_rng(0).choice(len(task.base), (runs, n), p=task.share)
        return even(task.base[torch.as_tensor(rows)])

    def importance(n: int, runs: int) -> Drawn:
        drawn = blocks(n)
        return task.reward(drawn.flatten(0, 1)).reshape(-1, n).double().numpy(), drawn

    return {
        "exact draws": exact,
        "best of N": lambda n, runs: best(even(blocks(n)), task.reward),
        "guidance without weights, x0hat": blind("x0hat"),
        "guidance without weights, denoiser": blind("denoiser"),
        "published FK, difference": published(),
        "published FK, difference, every step": published(every=1),
        "published FK, difference, adaptive": published(adaptive=True, every=1),
        "published FK, max, floor 0": published(potential="max"),
        "published FK, max, no floor": published(potential="max", floor=-100.0),
        "importance sampling": importance,
        "feynkac": ours(),
        "feynkac, Guided, trust=1": ours(fd.Guided(target, trust=1.0)),
        "feynkac, Guided, inner=4": ours(fd.Guided(target, inner=4)),
        "feynkac, Guided by the denoiser": ours(fd.Guided(target, through="denoiser", trust=None)),
        "TDS": ours(fd.Guided(target, through="denoiser"), resample=schemes.adaptive(schemes.systematic)),
        "DAS": ours(fd.Guided(gradual, through="denoiser"), gradual),
    }


def compare(samples: int, many: int, classes: range = range(10)) -> list[dict[str, Any]]:
    """Print the table; `samples` particles for each class, method and N.

    Three quarters of `many` samples of the base model are the truth, the others what methods choose from.
    """
    from diffusers import DDIMPipeline

    network, judges = Network(DDIMPipeline.from_pretrained(FOLDER)), Judges()
    model = fd.DiffusionSampler(network, network.schedule, SHAPE)
    nothing = fk.reward(lambda x: torch.zeros(len(x)), every="end", batch=True)
    base = torch.cat([steered(model, nothing, 256, 1, seed=chunk)[1][0] for chunk in range(many // 256)])
    base, pool = base[: 3 * len(base) // 4], base[3 * len(base) // 4 :]
    tasks, rows = [Task(network, judges, wanted, base) for wanted in classes], []
    law, every = sum(task.law for task in tasks), [methods(task, pool) for task in tasks]
    for name in every[0]:
        row: dict[str, Any] = {"method": name}
        for n in SIZES:
            drawn = [task.figures(each[name](n, samples // n)) for task, each in zip(tasks, every, strict=True)]
            found = np.mean(drawn, axis=0)
            row |= {f"TV N={n}": total_variation(found[3:], law)}
            row |= {
                f"{key} N={n}": float(f) for key, f in zip(("accuracy", "log p", "best log p"), found, strict=False)
            }
        rows.append(row)
    ess = np.mean([task.ess for task in tasks])
    table(
        rows, f"digits, p(class)^{SCALE:g}; the truth of each class rests on {ess:.0f} effective of {len(base)} samples"
    )
    return rows
