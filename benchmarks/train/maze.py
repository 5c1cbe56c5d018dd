"""Train a diffusion policy for a small maze, and a value function offline: some two minutes on one core.

    pip install feynkac
    python benchmarks/train/maze.py

The policy is trained on random walks through the maze (`mazes/world.py`), without any goal. The value is that of a path
when one wants to reach the goal: 1 if the path does, else 0.8 times the value of the path that followed it in the data
(Q of the behaviour policy, by temporal differences on logged days: nothing is tried out). What is saved are averages
over the steps, in half precision. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from mazes.networks import ALPHAS_BAR, Policy, Value, save
from mazes.world import draw_days, draw_paths, normalise, reach
from train.averaging import fit

DISCOUNT, DECAY = 0.8, 0.999


def fit_policy(paths: Tensor, steps: int, batch: int) -> nn.Module:
    """The policy of normalised `paths` (n, 16, 2), given their first points."""

    def loss_of(net: nn.Module, average: nn.Module) -> Tensor:
        x = paths[torch.randint(0, len(paths), (batch,))]
        times = torch.randint(0, len(ALPHAS_BAR), (batch,))
        alpha, sigma = (each.sqrt().float()[times, None, None] for each in (ALPHAS_BAR, 1.0 - ALPHAS_BAR))
        noise = torch.randn_like(x)
        return F.mse_loss(net(alpha * x + sigma * noise, x[:, 0], times.float()), alpha * noise - sigma * x)

    return fit(Policy(), loss_of, steps, 2e-3, DECAY, told=2000)


def fit_value(days: Tensor, steps: int, batch: int) -> nn.Module:
    """The value of the paths in `days` (n, chunks, 16, 2), in cells."""
    hit = reach(days.flatten(0, 1)).reshape(days.shape[:2]).float()
    first, then = (normalise(each).flatten(0, 1) for each in (days[:, :-1], days[:, 1:]))
    here = hit[:, :-1].flatten()

    def loss_of(net: nn.Module, average: nn.Module) -> Tensor:
        rows = torch.randint(0, len(first), (batch,))
        with torch.no_grad():
            worth = here[rows] + (1.0 - here[rows]) * DISCOUNT * average(then[rows]).sigmoid()
        return F.binary_cross_entropy_with_logits(net(first[rows]), worth)

    return fit(Value(), loss_of, steps, 2e-3, DECAY, told=2000)


def main() -> None:
    """Train, save, and say what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--batch", type=int, default=256)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    began, rng = time.perf_counter(), np.random.default_rng(0)
    paths = normalise(torch.as_tensor(draw_paths(100_000, rng), dtype=torch.float32))
    policy = fit_policy(paths, args.steps, args.batch)
    days = torch.as_tensor(draw_days(30_000, 5, rng), dtype=torch.float32)
    value = fit_value(days, args.steps // 2, 2 * args.batch)
    size = save(policy, value)  # type: ignore[arg-type]
    count = sum(p.numel() for net in (policy, value) for p in net.parameters())
    spent = time.perf_counter() - began
    print(json.dumps({"steps": args.steps, "parameters": count, "bytes": size, "seconds": round(spent)}))


if __name__ == "__main__":
    main()
