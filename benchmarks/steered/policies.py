"""A diffusion policy in a maze led by a user's sketch: the samplers of Inference-Time Policy Steering, and posteriors.

Wang et al. (2024, arXiv 2411.16627) compare six ways to bring a policy's paths near a sketch; `published` does each as
the code does that they published (yanweiw/itps), written anew. Guidance pushes the noise that the network predicts
along the gradient of the mean distance between the noisy path and the sketch, by ratios of 20 and, for stochastic
sampling, 60 on 64 points: a quarter of that on our 16. Stochastic sampling asks the network four times a level, and
draws the noise of the guided clean path anew in between; nothing is corrected by a Metropolis step. All get the same
number of network evaluations, those of N whole paths.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mazes.networks import SHAPE, From, Policy, load
from mazes.world import CENTRE, POINTS, collide, draw_paths, normalise, to_cells
from torch import Tensor

import feynkac as fk
from feynkac.models import diffusion as fd
from feynkac.models.diffusion.denoisers import ask
from feynkac.smc import resample as schemes
from steered.runs import Drawn, Method, Numbers, best, cells, even, quantiles, shares, steered, total_variation
from steered.tables import table

STEPS, STRENGTH, PARTS, VISITS = 16, 6.0, 4, 4
SCHEDULE = fd.ddpm(STEPS)
SIZES = (16, 64)
NOTHING = fk.reward(lambda x: torch.zeros(len(x)), every="end", batch=True)


@functools.lru_cache(maxsize=2)
def base_paths(policy: Policy, many: int, seed: int = 0) -> Tensor:
    """(many, 16, 2) normalised paths of the policy from the middle of the maze."""
    model = fd.DiffusionSampler(From(policy, CENTRE), SCHEDULE, SHAPE)
    parts = [steered(model, NOTHING, 1024, 1, schemes.never, seed=seed + k)[1][0] for k in range(-(-many // 1024))]
    return torch.cat(parts)[:many]


def sketches() -> list[Tensor]:
    """(16, 2) each, in cells: three paths that the policy might take, by an unsteady hand, and three through walls."""
    rng = np.random.default_rng(3)
    steady = draw_paths(3, rng, (2, 2)) + 0.25 * np.sin(np.linspace(0.0, 9.0, POINTS))[:, None] * rng.random((3, 1, 2))
    ends = np.array([[4.5, 4.2], [0.6, 4.5], [0.9, 0.4]])
    careless = np.array(CENTRE) + np.linspace(0.0, 1.0, POINTS)[:, None] * (ends[:, None] - np.array(CENTRE))
    return [torch.as_tensor(each, dtype=torch.float32) for each in (*steady, *careless)]


class Task:
    """A sketch to be followed, and what is known of the target from many paths of the policy."""

    def __init__(self, policy: Policy, sketch: Tensor, base: Tensor) -> None:
        self.policy, self.sketch, self.base = policy, sketch, base
        self.share = shares(self.reward(base).double().numpy()[None])[0]
        self.ess = 1.0 / (self.share**2).sum()
        self.edges = [quantiles(each, self.share, PARTS) for each in self._features(base)]
        self.law = cells(self._features(base), self.edges, self.share)

    def distance(self, x: Tensor) -> Tensor:
        """(R,) the mean distance in cells of normalised paths (R, 16, 2) from the sketch."""
        return torch.linalg.vector_norm(to_cells(x) - self.sketch, dim=2).mean(1)

    def reward(self, x: Tensor) -> Tensor:
        """(R,) nats."""
        return -STRENGTH * self.distance(x)

    def _features(self, x: Tensor) -> tuple[Numbers, Numbers]:
        """Distances, and how far the last point lies off the line from the middle to the sketch's last."""
        line = normalise(self.sketch[-1])
        off = (x[:, -1, 0] * line[1] - x[:, -1, 1] * line[0]) / line.norm()
        return self.distance(x).double().numpy(), off.double().numpy()

    def figures(self, drawn: Drawn) -> Numbers:
        """Mean distance, share of paths that collide, total variation."""
        log_w, x = drawn
        w, flat = shares(log_w), x.flatten(0, 1)
        weight = (w / len(w)).ravel()
        off, hit = self.distance(flat).double().numpy(), collide(to_cells(flat)).numpy()
        law = cells(self._features(flat), self.edges, weight)
        return np.array([weight @ off, weight @ hit, total_variation(law, self.law)])


class Pulled:
    """The policy, and the noise that it predicts pushed along the gradient of the mean distance, as published."""

    def __init__(self, denoiser: From, sketch: Tensor, ratio: float) -> None:
        self.denoiser, self.sketch, self.ratio = denoiser, normalise(sketch), ratio

    def x0hat(self, x: Tensor, t: fd.NoiseLevel, /) -> Tensor:
        pull = torch.nn.functional.normalize(x - self.sketch, dim=2) / POINTS
        return (self.denoiser.x0hat(x, t) - t.sigma / t.alpha * self.ratio * pull).clamp(-1.0, 1.0)


@torch.no_grad()
def simulate(denoiser: Any, steps: Sequence[fd.Transition], x: Tensor, generator: torch.Generator) -> Tensor:
    """Where `steps` lead from the latents `x`, without any weights."""
    for step in steps:
        said = ask(denoiser, x, step.before)
        x = step.mean(said.x0hat, said.epshat) + step.std * torch.randn(x.shape, generator=generator)
    return x


def published(task: Task, pool: Tensor) -> dict[str, Method]:
    """The six samplers of the paper. `pool`: paths of the policy, for those that choose among such."""
    policy = From(task.policy, CENTRE)

    def noise(count: int) -> tuple[Tensor, torch.Generator]:
        generator = torch.Generator().manual_seed(0)
        return SCHEDULE.start * torch.randn(count, *SHAPE, generator=generator), generator

    def blocks(n: int, runs: int) -> Tensor:
        return pool[: n * runs].reshape(runs, n, *SHAPE)

    def push(n: int, runs: int) -> Drawn:
        """Drag the robot along the sketch to before the first wall, let the policy go on, and keep the nearest path."""
        walls = collide(task.sketch[:, None].expand(POINTS, POINTS, 2)).tolist()  # whether each point is in one
        until = min(POINTS // 3, [*walls, True].index(True) - 1)
        x, generator = noise(n * runs)
        x = simulate(From(task.policy, task.sketch[until]), SCHEDULE.transitions, x, generator)
        led = normalise(task.sketch[:until]).expand(len(x), until, 2)
        return best(even(torch.cat([led, x], dim=1)[:, :POINTS].reshape(runs, n, *SHAPE)), task.reward)

    def biased(n: int, runs: int) -> Drawn:
        """Start in the middle of the schedule, from the sketch and noise: half the steps, hence twice the paths."""
        x, generator = noise(2 * n * runs)
        x = normalise(task.sketch) + 0.5 * x / SCHEDULE.start
        x = simulate(policy, SCHEDULE.transitions[STEPS // 2 :], x, generator)
        return even(x.reshape(runs, 2 * n, *SHAPE))

    def guided(n: int, runs: int) -> Drawn:
        x, generator = noise(n * runs)
        x = simulate(Pulled(policy, task.sketch, 5.0), SCHEDULE.transitions, x, generator)
        return even(x.reshape(runs, n, *SHAPE))

    def stochastic(n: int, runs: int) -> Drawn:
        steps = [each for step in SCHEDULE.transitions
                 for each in [*[fd.renoise(step.before, step.before)] * (VISITS - 1), step]]  # fmt: skip
        x, generator = noise(n // VISITS * runs)
        x = simulate(Pulled(policy, task.sketch, 15.0), steps, x, generator)
        return even(x.reshape(runs, n // VISITS, *SHAPE))

    return {
        "random sampling": lambda n, runs: even(blocks(n, runs)),
        "output perturbation": push,
        "post-hoc ranking": lambda n, runs: best(even(blocks(n, runs)), task.reward),
        "biased initialisation": biased,
        "guided diffusion": guided,
        "stochastic sampling": stochastic,
    }


def methods(task: Task, pool: Tensor) -> dict[str, Method]:
    """What is compared."""
    target = fk.reward(task.reward, batch=True)

    def exact(n: int, runs: int) -> Drawn:
        rows = np.random.default_rng(0).choice(len(task.base), (runs, n), p=task.share)
        return even(task.base[torch.as_tensor(rows)])

    def importance(n: int, runs: int) -> Drawn:
        drawn = pool[: n * runs].reshape(runs, n, *SHAPE)
        return task.reward(drawn.flatten(0, 1)).double().numpy().reshape(runs, n), drawn

    def ours(proposal: Any = fd.BASE, visits: int = 1) -> Method:
        denoiser = From(task.policy, CENTRE)
        sampler = fd.DiffusionSampler(denoiser, fd.revisit(SCHEDULE, visits), SHAPE, proposal=proposal)
        return lambda n, runs: steered(sampler, target, n // visits, runs)

    return {
        "exact draws": exact,
        **published(task, pool),
        "importance sampling": importance,
        "feynkac, reward": ours(),
        "feynkac, Guided": ours(fd.Guided(target)),
        "feynkac, Guided, revisit 4": ours(fd.Guided(target), VISITS),
    }


def compare(samples: int, many: int, count: int = 6) -> list[dict[str, Any]]:
    """Print the table; `samples` paths for each sketch, method and N. `many` paths of the policy are the truth."""
    policy, _ = load()
    base, pool = base_paths(policy, many), base_paths(policy, samples, seed=10_000)
    tasks, rows = [Task(policy, sketch, base) for sketch in sketches()[:count]], []
    every = [methods(task, pool) for task in tasks]
    for name in every[0]:
        row: dict[str, Any] = {"method": name}
        for n in SIZES:
            found = [task.figures(each[name](n, samples // n)) for task, each in zip(tasks, every, strict=True)]
            named = zip(("distance", "collide", "TV"), np.mean(found, axis=0), strict=True)
            row |= {f"{key} N={n}": float(figure) for key, figure in named}
        rows.append(row)
    ess = np.mean([task.ess for task in tasks])
    clash = float(collide(to_cells(base)).double().mean())
    table(
        rows,
        f"maze, exp(-{STRENGTH:g} distance) of {len(tasks)} sketches; the truth of each rests on {ess:.0f} effective "
        f"of {many} paths, of which {clash:.1%} collide",
    )
    return rows
