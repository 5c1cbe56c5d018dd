"""Directions fitted to the activations of texts that have a property, and of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_sequence
from feynkac.base.words import is_word
from feynkac.models.edits.directions import Direction
from feynkac.models.edits.fitting.captures import Activations
from feynkac.models.edits.fitting.logistic import SMALL
from feynkac.models.edits.fitting.methods import METHODS, Graded, Method, measure_separation
from feynkac.tensors import read_tensor

if TYPE_CHECKING:
    pass

Groups = Activations | Sequence[Activations]


def fit_direction(
    toward: Groups,
    away: Groups | None = None,
    *,
    centre: Groups | None = None,
    method: Method = "difference",
    weights: Sequence[float] | Tensor | None = None,
) -> Direction:
    """The direction from the activations `away` to those `toward`, at each layer that they have.

    Groups of activations may be given as one or several, which are pooled: the texts of all other styles, say.
    `centre`: instead of `away`, the texts of all kinds whose mean is taken off (mean-centring, Jorgensen et al. 2023).

    - "difference" of the means (CAA, Rimsky et al. 2024; style vectors, Konen et al. 2024). Activations of K positions
      give K vectors (ActAdd, Turner et al. 2023).
    - "pca": the first principal direction of the differences of text i toward and text i away (RepE, Zou et al. 2023;
      in-context vectors, Liu et al. 2024), or of toward less the mean of `centre`.
    - "logistic": the normal of a ridge-regularised logistic regression, a linear probe (see `fit_probe`).
    - "entropy": the mean of `toward` under `weights` (n,), at least 0, less its plain mean; by default the weights are
      the entropies of the next token that were captured (EAST, Rahn et al. 2024).

    All point toward, and are as long as the difference of the means along them: strength 1 moves the mean of the one
    group to that of the other, along the direction. The separation is cross-validated, in up to five parts: fitted to
    all texts but one part's, the direction is asked for the order of each of this part's texts toward with each away
    (by weight, with "entropy"); ties count one half.

    Raises ArgumentError where there is nothing to compare with, for too few texts (two a side, unless K positions are
    given), unequal numbers with "pca", groups of different layers, widths or places, and where the difference is 0.
    """
    if not is_word(method, METHODS):
        raise ArgumentError(f"method is {quote(method)}; it must be one of {', '.join(map(repr, METHODS))}")
    high = _pool(toward, "toward")
    other = None if away is None and centre is None else _pool(away if centre is None else centre, "away")
    _check_groups(high, other, away is not None and centre is not None, method)
    if weights is not None and method != "entropy":
        raise ArgumentError(f"weights are for method='entropy'; {quote(method)} takes none")
    grades = _read_weights(weights if weights is not None else high.entropy, len(high)) if method == "entropy" else None
    vectors, separation = {}, {}
    for layer, value in high.at.items():
        if other is None:
            assert grades is not None
            sample = Graded.weigh(value, grades)
        else:
            sample = Graded.compare(value, other.at[layer], paired=method == "pca" and centre is None)
        vectors[layer] = sample.fit(method)
        _check_differs(sample, vectors[layer], layer, method)
        if value.ndim == 2 and (share := measure_separation(sample, method)) is not None:
            separation[layer] = share
    return Direction(vectors, separation, high.of, method)


def _pool(groups: Any, name: str) -> Activations:
    listed = [groups] if isinstance(groups, Activations) else as_sequence(groups)
    if not listed or not all(isinstance(one, Activations) for one in listed):
        raise ArgumentError(f"{name} is {quote(groups)}; give what capture(lm, texts) returns, one or several")
    first = listed[0]
    if len(listed) == 1:
        return first
    for one in listed[1:]:
        _check_alike(first, one)
    entropies = [one.entropy for one in listed if one.entropy is not None]
    entropy = torch.cat(entropies) if len(entropies) == len(listed) else None
    return Activations({layer: torch.cat([one.at[layer] for one in listed]) for layer in first.at}, entropy, first.of)


def _check_alike(one: Activations, other: Activations) -> None:
    if one.of != other.of or set(one.at) != set(other.at):
        raise ArgumentError(f"{quote(one)} and {quote(other)} are of different places; capture both alike")
    for layer, value in one.at.items():
        if value.shape[1:] != other.at[layer].shape[1:]:
            shapes = f"{tuple(value.shape[1:])} and {tuple(other.at[layer].shape[1:])}"
            raise ArgumentError(f"activations of layer {layer} have {shapes} numbers a text: capture both alike")


def _check_groups(high: Activations, other: Activations | None, both: bool, method: str) -> None:
    if both:
        raise ArgumentError("give away= or centre=, not both: each is what toward is compared with")
    if method == "entropy" and other is not None:
        raise ArgumentError("method='entropy' weighs the texts of one group; leave away= and centre= out")
    if method != "entropy" and other is None:
        raise ArgumentError(f"method={quote(method)} compares two groups; give away=, or centre=")
    several = next(iter(high.at.values())).ndim == 3
    if several and method != "difference":
        raise ArgumentError(f"activations of several positions need method='difference', not {quote(method)}")
    if other is not None:
        _check_alike(high, other)
    least = min(len(high), len(high) if other is None else len(other))
    if least < 2 and not several:
        raise ArgumentError(
            f"too few texts: {least} on a side, and a direction takes at least 2; of one pair of texts, capture "
            "several positions, as in at=range(4)"
        )


def _read_weights(weights: Any, n: int) -> Tensor:
    if weights is None:
        raise ArgumentError("method='entropy' needs weights=; these activations were captured without entropies")
    found = read_tensor("weights", weights, torch.float64).reshape(-1)
    if len(found) != n or (found < 0).any() or found.sum() <= 0:
        raise ArgumentError(f"weights are {len(found)} numbers for {n} texts; give one each, none negative, not all 0")
    return found


def _check_differs(sample: Graded, vector: Tensor, layer: int, method: str) -> None:
    least = SMALL * sample.values.norm() / len(sample.values) ** 0.5
    if sample.difference.norm() <= least:
        why = "all weights are alike" if method == "entropy" else "both sides are the same there"
        raise ArgumentError(f"the difference is 0 at layer {layer}: {why}; leave the layer out, or use other texts")
    if vector.norm() <= least:
        raise ArgumentError(
            f"the direction that {quote(method)} finds at layer {layer} does not tell the "
            "means apart; use another method"
        )
