"""The networks of the maze: a diffusion policy, given where the robot stands, and the value of a path."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from feynkac.models.diffusion import NoiseLevel
from feynkac.models.diffusion.schedule import linear_alphas_bar
from mazes.world import POINTS, normalise

FILE = Path(__file__).parents[1] / "train" / "maze.safetensors"
SHAPE = (POINTS, 2)
ALPHAS_BAR = torch.as_tensor(linear_alphas_bar())


class Policy(nn.Module):
    """v of noisy paths (R, 16, 2), by an MLP with residual blocks; it also sees the start (R, 2) and the time (R,)."""

    def __init__(self, width: int = 160, blocks: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(2 * POINTS + 2 + 16, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.leave = nn.Linear(width, 2 * POINTS)

    def forward(self, x: Tensor, start: Tensor, time: Tensor) -> Tensor:
        waves = math.pi * 2.0 ** torch.arange(8) * (time / 1000.0)[:, None]
        h = self.enter(torch.cat([x.flatten(1), start, waves.sin(), waves.cos()], dim=1))
        for block in self.blocks:
            h = h + block(h)
        return self.leave(h).unflatten(1, SHAPE)


class Value(nn.Module):
    """The logit of how much a path (R, 16, 2) is worth, from -1 to 1 in the maze."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * POINTS, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))[:, 0]


class From:
    """The policy where the robot stands at `start` (x, y) in cells, as a denoiser: its paths stay in the maze."""

    def __init__(self, policy: Policy, start: tuple[float, float] | Tensor) -> None:
        self.policy, self.start = policy, normalise(torch.as_tensor(start, dtype=torch.float32))

    def x0hat(self, x: Tensor, t: NoiseLevel, /) -> Tensor:
        v = self.policy(x, self.start.expand(len(x), 2), torch.full((len(x),), t.time))
        return (t.alpha * x - t.sigma * v).clamp(-1.0, 1.0)


def save(policy: Policy, value: Value) -> int:
    """Both networks in half precision; returns the bytes."""
    weights = {f"{name}.{key}": w.half() for name, net in (("policy", policy), ("value", value))
               for key, w in net.state_dict().items()}  # fmt: skip
    save_file(weights, FILE)
    return FILE.stat().st_size


@functools.lru_cache(maxsize=1)
def load() -> tuple[Policy, Value]:
    """Both networks in single precision, frozen."""
    weights = {key: w.float() for key, w in load_file(FILE).items()}
    nets = Policy(), Value()
    for name, net in zip(("policy", "value"), nets, strict=True):
        net.load_state_dict({key.partition(".")[2]: w for key, w in weights.items() if key.startswith(name)})
        net.eval().requires_grad_(False)
    return nets
