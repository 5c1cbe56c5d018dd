"""Vectors aimed at sparse features, by what random vectors do to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import as_whole, read_count, read_real, read_seed
from feynkac.models.edits.activations import Add
from feynkac.models.edits.directions import Direction
from feynkac.models.edits.features import Features, encode_zeros
from feynkac.models.edits.fitting.captures import At, capture
from feynkac.models.edits.fitting.features import encode
from feynkac.models.edits.fitting.passes import find_anatomy
from feynkac.models.edits.scopes import Scope

if TYPE_CHECKING:
    from feynkac.models.edits.fitting.passes import Written
    from feynkac.models.language.lm import CausalLM


@dataclass(frozen=True, eq=False)
class Effects:
    """What adding a vector at a layer does to the codes of features: `matrix` (d, K), vector @ matrix, in codes."""

    matrix: Tensor
    layer: int

    def aim(self, target: int | Mapping[int, float], ridge: float = 1e-3) -> Direction:
        """The vector that moves the codes of `target` (a feature, by 1, or several) and as far as it can no others.

        The ridge-regularised inverse of the map. Raises ArgumentError for features that do not exist, or that no vector
        moves.
        """
        count = self.matrix.shape[1]
        wanted = torch.zeros(count, dtype=torch.float64, device="cpu")
        for feature, change in (target if isinstance(target, Mapping) else {target: 1.0}).items():
            number = as_whole(feature)
            if number is None or not 0 <= number < count:
                raise ArgumentError(f"feature {quote(feature)} does not exist; there are features 0..{count - 1}")
            wanted[number] = change
        return Direction({self.layer: _solve(self.matrix.double().T, wanted[:, None], ridge)[:, 0]}, method="aimed")


def target_features(
    lm: CausalLM,
    features: Features,
    texts: Sequence[Written],
    layer: int,
    *,
    read_at: int | None = None,
    vectors: int = 256,
    strength: float = 0.1,
    at: At = "last",
    scope: Scope = "all",
    seed: int = 0,
    ridge: float = 1e-3,
    blocks: str | None = None,
) -> Effects:
    """The linear map from vectors added at `layer` to the change of features at `read_at` (by default `layer`).

        effects = target_features(lm, sae, texts, layer=12)
        lm.edited(Add(effects.aim(791), strength=8.0))

    By ridge regression over random vectors, each `strength` times as long as an activation (SAE-TS; Chalnev et al.
    2024). The paper measures effects on texts that the edited model writes, and this on given `texts`, by one pass over
    them for each vector. There are d numbers to find of each feature, so that fewer than d vectors leave a part of the
    map unknown, which ridge takes for 0. Raises ArgumentError for features of another width, and for layers that do not
    exist.
    """
    anatomy = find_anatomy(lm, blocks)
    to, behind = anatomy.read_layer(layer), anatomy.read_layer(layer if read_at is None else read_at)
    if behind < to:
        raise ArgumentError(f"read_at={behind} is before layer={to}, where the vectors are added")
    count, size = read_count("vectors", vectors, low=2), read_real("strength", strength, 1e-6)
    if (drawn_by := read_seed("seed", seed)) is None:
        raise ArgumentError("seed is None; give an integer, so that the same vectors can be drawn again")
    encode_zeros(features, anatomy.width)
    plain = capture(lm, texts, sorted({to, behind}), at, blocks=blocks).at
    codes = encode(features, plain[behind])
    length = size * plain[to].norm(dim=-1).mean()
    drawn = torch.randn(count, anatomy.width, generator=torch.Generator().manual_seed(drawn_by % 2**64), device="cpu")
    drawn *= length / drawn.norm(dim=1, keepdim=True)
    changes = []
    for vector in drawn:
        edited = lm.edited(Add(vector, layer=to, scope=scope), blocks=blocks)
        moved = capture(edited, texts, behind, at, blocks=blocks).at[behind]
        changes.append((encode(features, moved) - codes).mean(0))
    return Effects(fit_effects(drawn, torch.stack(changes), ridge), to)


def fit_effects(vectors: Tensor, changes: Tensor, ridge: float = 1e-3) -> Tensor:
    """(d, K) M with changes (n, K) = vectors (n, d) @ M, by ridge regression."""
    return _solve(vectors.double(), changes.double(), ridge).float()


def _solve(matrix: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """(d, k) the least |matrix x - wanted|^2 + r |x|^2, with r the share `ridge` of a column's mean square length."""
    share = read_real("ridge", ridge, 0.0)
    if share > 1e6:
        raise ArgumentError(f"ridge is {quote(ridge)}; it is a share of the mean square length, such as 0.001")
    gram = matrix.T @ matrix
    if not (scale := float(gram.diagonal().mean())) > 0:
        raise ArgumentError("no vector moves these features; try other texts, a larger strength or another layer")
    return torch.linalg.lstsq(
        gram + share * scale * torch.eye(len(gram), dtype=gram.dtype, device="cpu"), matrix.T @ wanted
    ).solution
