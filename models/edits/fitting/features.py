"""Sparse features: vectors taken apart into features, features matched between layers.

A dictionary of features is any object with `encode` and `decode`, such as one of sae-lens; its K decoder rows are found
by decoding unit codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_whole
from feynkac.models.edits.directions import Direction, read_direction
from feynkac.models.edits.features import Features, encode_zeros, put
from feynkac.tensors import read_tensor

_CHUNK = 1024


@torch.no_grad()
def encode(features: Features, values: Tensor) -> Tensor:
    """(n, K) float32 codes of (n, d) activations."""
    return features.encode(put(values, features)).float().cpu()


@torch.no_grad()
def list_rows(features: Features, width: int) -> Tensor:
    """(K, d) float32 decoder rows: what each feature adds to an activation of `width` numbers at a code of 1.

    Raises ArgumentError for features of another model.
    """
    code = encode_zeros(features, width)
    count = code.shape[-1]
    nothing = features.decode(torch.zeros_like(code))
    units = (
        torch.nn.functional.one_hot(some, count).to(code) for some in torch.arange(count, device="cpu").split(_CHUNK)
    )
    return torch.cat([features.decode(some) - nothing for some in units]).float().cpu()


class Decomposition(NamedTuple):
    """A vector as a signed sum of a few features, and what the encoder alone makes of it."""

    features: Tensor
    """(k,) numbers of the features, in the order in which they were taken."""
    coefficients: Tensor
    """(k,) of each."""
    unexplained: float
    """The share of the vector's squared length that the sum leaves (FVU)."""
    unexplained_by_encoder: float
    """The same of decode(encode(vector)); above 1 the reconstruction is worse than none."""
    negative: float
    """The share of the coefficients that are negative, which no encoder gives."""


def decompose(
    direction: Direction | Tensor, features: Features, layer: int | None = None, terms: int = 32
) -> Decomposition:
    """A direction as a sum of at most `terms` features, by orthogonal matching pursuit with signed least squares.

    The two reasons why an encoder misreads steering vectors (Mayne et al. 2024): they lie outside of what it was
    trained on (compare `unexplained_by_encoder` with `unexplained`), and they have parts along features with negative
    sign (`negative`). Raises ArgumentError for features of another width.
    """
    vector = _read_vector(direction, layer)
    count = read_whole("terms", terms, 1)
    rows = list_rows(features, len(vector)).double()
    target = vector.double()
    size = target.square().sum()
    chosen, weights = _pursue(rows, target, count)
    left = target - weights @ rows[chosen]
    with torch.no_grad():
        again = features.decode(features.encode(put(vector[None], features)))[0].cpu().double()
    return Decomposition(
        chosen,
        weights.float(),
        float(left.square().sum() / size),
        float((target - again).square().sum() / size),
        float((weights < 0).double().mean()),
    )


def _pursue(rows: Tensor, target: Tensor, count: int) -> tuple[Tensor, Tensor]:
    lengths = rows.norm(dim=1).clamp_min(1e-30)
    chosen: list[int] = []
    weights, left = torch.empty(0, dtype=rows.dtype, device="cpu"), target
    for _ in range(min(count, *rows.shape)):
        fit = (rows @ left).abs() / lengths
        fit[chosen] = -1.0
        chosen.append(int(fit.argmax()))
        weights = torch.linalg.lstsq(rows[chosen].T, target[:, None], driver="gelsd").solution[:, 0]
        left = target - weights @ rows[chosen]
        if left.norm() <= 1e-6 * target.norm():
            break
    return torch.tensor(chosen, device="cpu"), weights


def _read_vector(direction: Direction | Tensor, layer: int | None) -> Tensor:
    if isinstance(direction, Mapping):
        known = read_direction(direction)
        if layer is None and len(known) > 1:
            raise ArgumentError(f"the direction has several layers, {list(known)}; say which with layer=")
        chosen = known if layer is None else known.at(layer)
        if len(chosen) > 1:
            raise ArgumentError(f"layer is {quote(layer)}; give one number")
        (found,) = chosen.values()
    else:
        found = read_tensor("the direction", direction).detach().float().cpu()
    if found.ndim != 1 or not found.norm() > 0:
        raise ArgumentError(f"the direction is {tuple(found.shape)}, or 0; give one vector")
    return found


class Matches(NamedTuple):
    """For each of K features the one of another dictionary that is most like it."""

    features: Tensor
    """(K,) numbers in the other dictionary."""
    cosines: Tensor
    """(K,) of the two decoder rows."""


def match_features(one: Features, other: Features, width: int) -> Matches:
    """The feature of `other` whose decoder row is most like that of each feature of `one`, by cosine.

    From layer to layer this is how features flow (Laptev et al. 2025, "Analyze feature flow"). `width`: the numbers in
    an activation, d. Raises ArgumentError for dictionaries of another width.
    """
    rows, others = (torch.nn.functional.normalize(list_rows(some, width), dim=1) for some in (one, other))
    best = [(part @ others.T).max(1) for part in rows.split(_CHUNK)]
    return Matches(torch.cat([found.indices for found in best]), torch.cat([found.values for found in best]))
