"""The paths of particles, which conditional SMC and particle Gibbs walk again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from feynkac.base.contract import Rows
from feynkac.base.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class LatentPath:
    """All that one particle went through: what `trace` returns and `replay` takes."""

    latents: tuple[Tensor, ...]
    """(T + 1) latents of the sampler's shape, from pure noise to the sample, on the sampler's device."""
    seed: int | None = None
    """What a pipeline seeded the generator of the first latent with."""


def check_path(path: LatentPath, length: int, shape: Sequence[int]) -> None:
    """Raises ArgumentError for a `path` that is none of a sampler with so many latents of this `shape`."""
    shapes = {tuple(each.shape) for each in path.latents}
    if len(path.latents) != length or shapes != {tuple(shape)}:
        raise ArgumentError(
            f"a path of {len(path.latents)} latents of shape {shapes} is none of this sampler, which has {length} of "
            f"shape {tuple(shape)}; take one that its own trace has returned"
        )


class _Node(NamedTuple):
    x: Tensor
    before: _Node | int | None
    """The node of the step before; of the first latent the seed."""


class Past:
    """The lineages of N particles: a tree of latents, with one tip a particle.

    Particles share the part of their paths that they have in common, and a lineage that dies out frees its latents. So
    it holds T N latents if nothing is ever resampled, and with resampling at every step about T + N log N (Jacob,
    Murray, Rubenthaler 2015).
    """

    def __init__(self, tips: Sequence[_Node]) -> None:
        self._tips = tips

    @staticmethod
    def start(x: Tensor, seeds: Sequence[int] | None = None) -> Past:
        """The lineages of first latents `x` (N, ...), of which a pipeline drew each with a generator of its own."""
        return Past([_Node(row.clone(), seed) for row, seed in zip(x, seeds or [None] * len(x), strict=True)])

    def __len__(self) -> int:
        return len(self._tips)

    def fork(self, rows: Rows) -> Past:
        """The lineages of the population whose row `i` continues from `rows[i]`."""
        return Past([self._tips[row] for row in rows])

    def grow(self, x: Tensor) -> Past:
        """The same lineages, each one latent longer; `x` (N, ...)."""
        # Each row is cloned: a view would keep the whole population's latents for as long as one of them is needed.
        return Past([_Node(row.clone(), tip) for row, tip in zip(x, self._tips, strict=True)])

    def path(self, row: int) -> LatentPath:
        """The path of one particle."""
        latents, node = list[Tensor](), self._tips[row]
        while isinstance(node, _Node):
            latents.append(node.x)
            node = node.before
        return LatentPath(tuple(reversed(latents)), node)
