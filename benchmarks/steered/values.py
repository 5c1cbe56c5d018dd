"""Actions of a diffusion policy chosen by a value function that was learnt offline: V-GPS, and posteriors.

Nakamoto et al. (2024, arXiv 2410.13816) sample n actions of a policy, and take the one of the highest value, or draw
one from the softmax of value / temperature. An action is here a path of 3 to 4 cells through the maze, its value about
how soon the goal is reached after it. Every method evaluates the policy's network once for each of n paths and step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mazes.networks import SHAPE, From, Policy, load
from mazes.world import CENTRE, GOAL, OPEN, collide, reach, to_cells
from torch import Tensor

import feynkac as fk
from feynkac.models import diffusion as fd
from feynkac.smc import resample as schemes
from feynkac.smc.engine import smc
from feynkac.smc.rng import Streams
from steered.policies import NOTHING, SCHEDULE, STEPS, base_paths
from steered.runs import SSP, Drawn, Numbers, cells, even, quantiles, shares, total_variation
from steered.tables import table

TEMPERATURE, PARTS, ROUNDS, DISCOUNT = 0.1, 4, 3, 0.8
SIZES = (8, 32)
Starts = list[tuple[float, float]]
Method = Callable[[Starts, int, int], Drawn]
"""Starts, n and a seed to what the method returns for each of them."""


def methods(policy: Policy, worth: Callable[[Tensor], Tensor]) -> dict[str, Method]:
    """What is compared. `worth`: (R, 16, 2) normalised paths to (R,) values."""
    target = fk.reward(worth, scale=1.0 / TEMPERATURE, batch=True)

    def run(potential: Any, resample: Any, schedule: fd.NoiseSchedule = SCHEDULE, proposal: Any = fd.BASE) -> Method:
        def go(starts: Starts, n: int, seed: int) -> Drawn:
            denoisers = {start: From(policy, start) for start in starts}
            samplers = [fd.DiffusionSampler(denoisers[s], schedule, SHAPE, proposal=proposal) for s in starts]
            joint = samplers[0].join(samplers[1:])
            *_, last = smc(joint, potential, n=[n] * len(starts), resample=resample, rng=Streams(seed))
            return last.log_weight.reshape(len(starts), n), last.state.x.reshape(len(starts), n, *SHAPE)

        return go

    def highest(sampled: Method) -> Method:
        def go(starts: Starts, n: int, seed: int) -> Drawn:
            x = sampled(starts, n, seed)[1]
            top = worth(x.flatten(0, 1)).reshape(x.shape[:2]).argmax(1)
            return np.zeros((len(x), 1)), x[torch.arange(len(x)), top][:, None]

        return go

    plain, ode = run(NOTHING, schemes.never), run(NOTHING, schemes.never, fd.ddim(STEPS, 0.0))
    return {
        "policy alone": lambda starts, n, seed: even(plain(starts, n, seed)[1]),
        "V-GPS, best of n": highest(plain),
        "V-GPS, best of n, ODE policy": highest(ode),
        "V-GPS, softmax among n": run(fk.reward(worth, 1.0 / TEMPERATURE, every="end", batch=True), schemes.never),
        "feynkac, reward": run(target, SSP),
        "feynkac, Guided": run(target, SSP, proposal=fd.Guided(target)),
    }


class Truth:
    """policy(path) exp(value / temperature) from the middle of the maze, from many paths of the policy."""

    def __init__(self, base: Tensor, worth: Callable[[Tensor], Tensor]) -> None:
        self.worth = worth
        weight = np.exp(worth(base).double().numpy() / TEMPERATURE)
        self.share = weight / weight.sum()
        self.ess = 1.0 / (self.share**2).sum()
        self.edges = [quantiles(each, self.share, PARTS) for each in self._features(base)]
        self.law = cells(self._features(base), self.edges, self.share)

    def _features(self, x: Tensor) -> tuple[Numbers, Numbers]:
        return self.worth(x).double().numpy(), x[:, -1].sum(1).double().numpy()

    def figures(self, drawn: Drawn) -> dict[str, float]:
        """Means over what is returned, and total variation."""
        log_w, x = drawn
        w, flat = shares(log_w), x.flatten(0, 1)
        weight, paths = (w / len(w)).ravel(), to_cells(flat)
        return {
            "value": float(weight @ self.worth(flat).double().numpy()),
            "reach": float(weight @ (reach(paths) & ~collide(paths)).numpy()),
            "collide": float(weight @ collide(paths).numpy()),
            "TV": total_variation(cells(self._features(flat), self.edges, weight), self.law),
        }


def drive(method: Method, n: int, episodes: int) -> dict[str, float]:
    """The share of episodes that reach the goal within three paths, what that is worth, and the share that crashes.

    One path is drawn by the weights at each decision, and driven to its end, to the goal or into a wall.
    """
    rng = np.random.default_rng(0)
    far = [cell for cell in OPEN if abs(cell[0] + 0.5 - GOAL[0]) + abs(cell[1] + 0.5 - GOAL[1]) > 2]
    now = torch.tensor([far[k] for k in rng.integers(len(far), size=episodes)], dtype=torch.float32) + 0.5
    going, won, lost, earned = np.arange(episodes), 0, 0, 0.0
    for k in range(ROUNDS):
        log_w, x = method([tuple(start) for start in now[going].tolist()], n, 100 * n + k)
        pick = (shares(log_w).cumsum(1) < rng.random((len(x), 1))).sum(1).clip(max=x.shape[1] - 1)
        paths = to_cells(x[torch.arange(len(x)), torch.as_tensor(pick)])
        crash = collide(paths).numpy()
        goal = reach(paths).numpy() & ~crash
        won, lost, earned = won + goal.sum(), lost + crash.sum(), earned + DISCOUNT**k * goal.sum()
        now[going] = paths[:, -1]
        going = going[~goal & ~crash]
        if not len(going):
            break
    return {"success": won / episodes, "return": earned / episodes, "crash": lost / episodes}


def compare(samples: int, many: int, episodes: int) -> list[dict[str, Any]]:
    """Print two tables: one decision in the middle of the maze against the truth, and whole episodes."""
    policy, value = load()

    def worth(x: Tensor) -> Tensor:
        return value(x).sigmoid()

    truth = Truth(base_paths(policy, many), worth)
    rows, driven = [], []
    for name, method in methods(policy, worth).items():
        for n in SIZES:
            figures = truth.figures(method([CENTRE] * (samples // n), n, 0))
            rows.append({"one decision": f"{name}, n={n}", **figures})
        driven.append({"episodes": f"{name}, n={SIZES[0]}", **drive(method, SIZES[0], episodes)})
    table(
        rows,
        f"maze, policy(path) exp(value / {TEMPERATURE:g}); the truth rests on {truth.ess:.0f} effective of "
        f"{many} paths",
    )
    table(driven, f"maze, the goal within {ROUNDS} paths, {episodes} episodes")
    return [*rows, *driven]
