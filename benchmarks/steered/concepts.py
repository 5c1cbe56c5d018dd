"""Semantic guidance on small coloured shapes: a colour and a shape at once, at equal passes of the network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from train import shapes

import feynkac as fk
from feynkac.models import diffusion as fd
from feynkac.smc import resample as schemes
from steered.runs import Drawn, Method, Numbers, best, cells, even, quantiles, shares, steered, total_variation
from steered.tables import table

TRUTH = Path(__file__).parents[1] / "train" / "shapes_truth.npz"
SHAPE, STEPS, PARTS = (3, shapes.SIZE, shapes.SIZE), 10, 4
SCHEDULE = fd.ddpm(STEPS)
WANTED = (shapes.SHAPES.index("cross"), shapes.COLOURS.index("red"))
SIZES = (12, 48)
"""Particles of a method that calls the network once for each and step; the others have fewer."""


def painted(painter: shapes.Painter, shape: int = 0, colour: int = 0) -> fd.Network:
    """The network under a prompt, whose words are numbered from 1; 0 is none."""
    prompt = torch.tensor([[shape, colour]])

    def predict(x: Tensor, time: float) -> Tensor:
        return painter(x, torch.full((len(x),), time), prompt.expand(len(x), 2))

    return fd.Network(predict, "v_prediction", clip=1.0)


def placed() -> Tensor:
    """(3, 16, 64) the masks of the shapes in all places."""
    steps = shapes.SIZE - 4
    found = torch.zeros(3, steps, steps, shapes.SIZE, shapes.SIZE)
    for row in range(steps):
        for column in range(steps):
            found[:, row, column, row : row + 5, column : column + 5] = shapes.masks()
    return found.reshape(3, steps**2, -1)


PLACED = placed()


def classify(x: Tensor) -> tuple[Tensor, Tensor]:
    """(R, 3) and (R, 3) nats: log p of each shape and of each colour, by masks laid over what is not grey."""
    tint = x - x.mean(1, keepdim=True)
    vivid = ((x.amax(1) - x.amin(1)) / 1.6).flatten(1)
    off = (vivid[:, None, None] - PLACED).square().sum(-1)
    shape = (-2.0 * off).logsumexp(2).log_softmax(1)
    colour = (tint.flatten(2) * vivid[:, None]).sum(2) / vivid.sum(1, keepdim=True).clamp(min=1e-3)
    return shape, (4.0 * colour).log_softmax(1)


def reward(x: Tensor) -> Tensor:
    """(R,) nats: log p of the wanted shape and of the wanted colour."""
    shape, colour = classify(x)
    return shape[:, WANTED[0]] + colour[:, WANTED[1]]


def features(x: Tensor) -> tuple[Numbers, Numbers]:
    """What a law is compared by: the reward, and the brightness of the whole image, which nobody asked for."""
    return reward(x).double().numpy(), x.mean((1, 2, 3)).double().numpy()


class Judge:
    """Two support-vector machines, of shapes and of colours, trained on images of the data."""

    def __init__(self, images: int = 3000) -> None:
        from sklearn.svm import SVC

        x, words, _, _ = shapes.draw(images, torch.Generator().manual_seed(1))
        noisy = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))).flatten(1).numpy()
        self._kinds = [SVC(C=10.0, gamma="scale").fit(noisy, words[:, each].numpy() - 1) for each in range(2)]

    def right(self, x: Tensor) -> Numbers:
        """(R,) 1 where both are as wanted."""
        said = [kind.predict(x.flatten(1).numpy()) == wanted for kind, wanted in zip(self._kinds, WANTED, strict=True)]
        return (said[0] & said[1]).astype(float)


class Truth:
    """What importance sampling with many samples of the model itself found (see `train/shapes_truth.py`)."""

    def __init__(self) -> None:
        found = np.load(TRUTH)
        self.log_evidence, self.ess = float(found["log_evidence"]), float(found["ess"])
        self.samples, self.edges, self.law = int(found["samples"]), list(found["edges"]), found["law"]
        self.drawn = torch.as_tensor(found["drawn"]).float()


def guided(painter: shapes.Painter, scale: float, threshold: float, momentum: float = 0.0) -> fd.SemanticGuidance:
    """Towards both concepts, once the first fifth of the steps is over."""
    start = SCHEDULE.transitions[STEPS // 5].before.sigma
    words = ((WANTED[0] + 1, 0), (0, WANTED[1] + 1))
    concepts = (fd.Concept(painted(painter, *word), scale, threshold, start=start) for word in words)
    return fd.SemanticGuidance(*concepts, momentum=momentum)


def methods(painter: shapes.Painter, truth: Truth) -> dict[str, tuple[int, Method]]:
    """What is compared, each with its passes of the network for a particle and step."""
    model, target = painted(painter), fk.reward(reward, batch=True)
    nothing = fk.reward(lambda x: torch.zeros(len(x)), every="end", batch=True)
    strong, mild = guided(painter, 5.0, 0.9, 0.3), guided(painter, 1.0, 0.0)

    def run(denoiser: Any, potential: Any = target, proposal: Any = fd.BASE, **options: Any) -> Method:
        sampler = fd.DiffusionSampler(denoiser, SCHEDULE, SHAPE, proposal=proposal)
        return lambda n, runs: steered(sampler, potential, n, runs, **options)

    def law(guidance: fd.SemanticGuidance) -> Method:
        return run(fd.EditedDenoiser(model, guidance), nothing, resample=schemes.never)

    def exact(n: int, runs: int) -> Drawn:
        rows = np.random.default_rng(0).choice(len(truth.drawn), (runs, n))
        return even(truth.drawn[torch.as_tensor(rows)])

    plain = run(model, nothing, resample=schemes.never)
    return {
        "exact draws": (1, exact),
        "the model itself": (1, plain),
        "best of N": (1, lambda n, runs: best(plain(n, runs), reward)),
        "SEGA, scale 5, threshold 0.9, momentum 0.3": (3, law(strong)),
        "SEGA, scale 1, threshold 0": (3, law(mild)),
        "SEGA's law (scale 5), rewarded": (3, run(fd.EditedDenoiser(model, strong))),
        "importance sampling": (1, run(model, resample=schemes.never)),
        "reward": (1, run(model)),
        "reward, EditedProposal, scale 5": (3, run(model, proposal=fd.EditedProposal(strong))),
        "reward, EditedProposal, scale 1": (3, run(model, proposal=fd.EditedProposal(mild))),
    }


def figures(drawn: Drawn, truth: Truth, judge: Judge) -> dict[str, float]:
    """Share that the judge finds right, TV to the target, and how far the evidence of a run is off, in nats."""
    log_w, x = drawn
    w, flat = shares(log_w), x.flatten(0, 1)
    weight = (w / len(w)).ravel()
    top = log_w.max(1, keepdims=True)  # the sum of a run's weights is its evidence
    log_z = (top + np.log(np.exp(log_w - top).sum(1, keepdims=True)))[:, 0]
    return {
        "accuracy": float(weight @ judge.right(flat)),
        "TV": total_variation(cells(features(flat), truth.edges, weight), truth.law),
        "mean Z / Z0": float(np.exp(log_z - truth.log_evidence).mean()),
        "RMSE of log Z": float(np.sqrt(np.mean((log_z - truth.log_evidence) ** 2))),
    }


def compare(samples: int) -> list[dict[str, Any]]:
    """Print the table; `samples` particles for each method and N, of those that call the network once a step."""
    painter, truth, judge = shapes.load(), Truth(), Judge()
    rows = []
    for name, (passes, method) in methods(painter, truth).items():
        row: dict[str, Any] = {"method": name, "passes": passes}
        for n in SIZES:
            found = figures(method(n // passes, samples // n), truth, judge)
            weighs = name.startswith(("reward", "importance"))
            row |= {f"{key} N={n}": value if weighs or "Z" not in key else None for key, value in found.items()}
        rows.append(row)
    table(
        rows,
        f"a red cross, {STEPS} steps: log Z {truth.log_evidence:.3f}; the truth rests on {truth.ess:.0f} effective of "
        f"{truth.samples} samples",
    )
    return rows


def find_target(x: Tensor) -> dict[str, Any]:
    """Evidence and law of the target from samples `x` (M, 3, 8, 8) of the model itself, for `Truth`."""
    nats = reward(x).double().numpy()
    w = np.exp(nats)
    share, value = w / w.sum(), features(x)
    edges = [quantiles(each, share, PARTS) for each in value]
    rows = np.random.default_rng(0).choice(len(x), 400, p=share)
    return {
        "log_evidence": math.log(w.mean()), "log_evidence_se": w.std() / w.mean() / math.sqrt(len(w)),
        "ess": 1.0 / (share**2).sum(), "samples": len(x), "edges": np.stack(edges),
        "law": cells(value, edges, share), "drawn": x[torch.as_tensor(rows)].half().numpy(),
    }  # fmt: skip
