"""A maze of 5 x 5 cells with four blocks, and paths through it.

. . . . .
. # . # .       A path is 16 points (x, y) from 0 to 5, in cells. It collides where a point on it, or one of three
. . . . .       between each two, is in a block or outside.
. # . # .
. . . . .
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float64]

SIDE, POINTS = 5, 16
BLOCKS = ((1, 1), (1, 3), (3, 1), (3, 3))
WOBBLE = 0.02
CENTRE, GOAL, NEAR = (2.5, 2.5), (0.5, 4.5), 0.5
OPEN = [(i, j) for i in range(SIDE) for j in range(SIDE) if (i, j) not in BLOCKS]
_STEPS = ((1, 0), (-1, 0), (0, 1), (0, -1))
_ROW = {cell: row for row, cell in enumerate(OPEN)}
NEIGHBOURS = np.array([[_ROW.get((i + di, j + dj), -1) for di, dj in _STEPS] for i, j in OPEN])
"""(21, 4) the open cells beside each open cell, -1 where there is none."""


def normalise(paths: Tensor) -> Tensor:
    """Cells to -1 ... 1."""
    return paths / (SIDE / 2) - 1.0


def to_cells(x: Tensor) -> Tensor:
    """-1 ... 1 to cells."""
    return (x + 1.0) * (SIDE / 2)


def walk(n: int, moves: int, rng: np.random.Generator, start: tuple[int, int] | None = None) -> Numbers:
    """(n, moves + 1, 2) middles of the cells of random walks that never turn back, from `start` or from anywhere."""
    now = rng.integers(len(OPEN), size=n) if start is None else np.full(n, _ROW[start])
    before, cells = np.full(n, -2), [now]
    for _ in range(moves):
        free = (NEIGHBOURS[now] >= 0) & (NEIGHBOURS[now] != before[:, None])
        pick = np.argmax(np.where(free, rng.random(free.shape), -1.0), axis=1)
        before, now = now, NEIGHBOURS[now, pick]
        cells.append(now)
    return np.array(OPEN)[np.array(cells).T] + 0.5


def trace(nodes: Numbers, start: Numbers, length: Numbers, rng: np.random.Generator) -> Numbers:
    """(n, 16, 2) paths along `nodes` (n, m, 2), from `start` (n,) on for `length` (n,) cells, by an unsteady hand."""
    u = start[:, None] + length[:, None] * np.linspace(0.0, 1.0, POINTS)
    before = np.minimum(u.astype(int), nodes.shape[1] - 2)
    rows = np.arange(len(nodes))[:, None]
    paths = nodes[rows, before] + (u - before)[..., None] * (nodes[rows, before + 1] - nodes[rows, before])
    for _ in range(2):
        paths[:, 1:-1] = 0.25 * paths[:, :-2] + 0.5 * paths[:, 1:-1] + 0.25 * paths[:, 2:]
    wobble = np.cumsum(WOBBLE * rng.standard_normal(paths.shape), axis=1)
    return paths + wobble - wobble[:, :1]


def draw_paths(n: int, rng: np.random.Generator, start: tuple[int, int] | None = None) -> Numbers:
    """(n, 16, 2) paths of 3 to 4 cells that collide with nothing, from anywhere, or from the middle of a cell."""
    kept = list[Numbers]()
    while sum(map(len, kept)) < n:
        nodes = walk(n, 6, rng, start)
        begin = np.zeros(n) if start else rng.random(n)
        shift = 0.0 if start else np.clip(0.08 * rng.standard_normal((n, 1, 2)), -0.25, 0.25)
        paths = trace(nodes, begin, rng.uniform(3.0, 4.0, n), rng) + shift
        kept.append(paths[~collide(torch.as_tensor(paths)).numpy()])
    return np.concatenate(kept)[:n]


def draw_days(n: int, chunks: int, rng: np.random.Generator) -> Numbers:
    """(n, chunks, 16, 2) paths of which each begins where the last one would have ended had its hand been steady."""
    nodes, lengths = walk(n, 5 * chunks + 1, rng), rng.uniform(3.0, 4.0, (n, chunks))
    begins = rng.random(n)[:, None] + np.concatenate([np.zeros((n, 1)), np.cumsum(lengths, axis=1)[:, :-1]], axis=1)
    days = np.stack([trace(nodes, begins[:, k], lengths[:, k], rng) for k in range(chunks)], axis=1)
    good = ~collide(torch.as_tensor(days).flatten(0, 1)).reshape(n, chunks).any(1).numpy()
    return days[good]


def _fill(paths: Tensor) -> Tensor:
    """(R, 61, 2) the points of `paths` (R, 16, 2), and three between each two."""
    share = torch.arange(4, device=paths.device).to(paths)[:, None] / 4
    between = paths[:, :-1, None] + share * (paths[:, 1:, None] - paths[:, :-1, None])
    return torch.cat([between.flatten(1, 2), paths[:, -1:]], dim=1)


def collide(paths: Tensor) -> Tensor:
    """(R,) bool, of paths (R, 16, 2) in cells."""
    points = _fill(paths)
    outside = ((points < 0.0) | (points > SIDE)).any(2)
    cells = points.floor().clamp(0, SIDE - 1).long()
    blocked = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    blocked[tuple(zip(*BLOCKS, strict=True))] = True
    return (outside | blocked[cells[..., 0], cells[..., 1]]).any(1)


def reach(paths: Tensor) -> Tensor:
    """(R,) bool: whether paths (R, 16, 2) in cells come near the goal."""
    return ((_fill(paths) - torch.tensor(GOAL).to(paths)).norm(dim=2) < NEAR).any(1)
