"""Affine maps from the activations of one group of texts to those of another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_flag, read_real
from feynkac.models.edits.activations import Affine
from feynkac.models.edits.fitting.captures import Activations
from feynkac.models.edits.fitting.logistic import read_layer


def fit_affine(
    toward: Activations,
    away: Activations,
    layer: int | None = None,
    *,
    covariance: bool = False,
    shrink: float = 0.0,
    **given: Any,
) -> Affine:
    """The affine map that moves activations `away` least, in mean squares, so that their moments are those `toward`.

        lm.edited(fit_affine(toward, away, layer=14, covariance=True, shrink=0.1, scope="all"))

    The means alone: h + (mean toward - mean away). With `covariance` also the covariances: the map of optimal transport
    between two normal laws, which is the least-squares one under both constraints (Singh et al. 2024, "Representation
    surgery"). `shrink` mixes each covariance with that share of the mean variance times the identity; it is needed
    where there are not more texts than numbers in an activation. `given`: what else `Affine` takes.

    Raises ArgumentError for groups of different places, too few texts, and singular covariances.
    """
    at = read_layer(toward, layer)
    if read_layer(away, layer) != at or toward.of != away.of or toward.at[at].shape[1:] != away.at[at].shape[1:]:
        raise ArgumentError(f"{quote(toward)} and {quote(away)} are of different places; capture both alike")
    target, source = toward.at[at].double(), away.at[at].double()
    if target.ndim != 2:
        raise ArgumentError(
            "an affine map is fitted to one activation a text; capture at='last', at='mean' or a number"
        )
    if min(len(target), len(source)) < 2:
        raise ArgumentError(f"too few texts: {len(target)} toward and {len(source)} away; give at least 2 of each")
    share, whole = read_real("shrink", shrink, 0.0), read_flag("covariance", covariance)
    if share >= 1.0 or (share > 0.0 and not whole):
        raise ArgumentError(f"shrink is {quote(shrink)}; it is a share below 1 of covariance=True")
    matrix = torch.eye(target.shape[1], dtype=torch.float64, device="cpu")
    if whole:
        matrix = _transport(_find_covariance(source, share, "away"), _find_covariance(target, share, "toward"))
    offset = target.mean(0) - matrix @ source.mean(0)
    return Affine(matrix.float(), offset.float(), **{"layer": at, "of": toward.of, **given})


def _find_covariance(values: Tensor, share: float, name: str) -> Tensor:
    n, d = values.shape
    if n <= d and share == 0.0:
        raise ArgumentError(
            f"{n} texts {name} do not determine a covariance of {d} numbers; give more than {d}, or shrink=0.1"
        )
    found = torch.cov(values.T, correction=0)
    return (1.0 - share) * found + share * found.diagonal().mean() * torch.eye(d, dtype=values.dtype, device="cpu")


def _transport(source: Tensor, target: Tensor) -> Tensor:
    """The symmetric (d, d) matrix A with A source A = target: S^-1/2 (S^1/2 T S^1/2)^1/2 S^-1/2."""
    values, vectors = torch.linalg.eigh(source)
    if values[0] <= 1e-12 * values[-1]:
        raise ArgumentError("the covariance of the activations away is singular; give shrink=0.1, say")
    root, inverse = ((vectors * values**power) @ vectors.T for power in (0.5, -0.5))
    within = torch.linalg.eigh(root @ target @ root)
    return inverse @ (within.eigenvectors * within.eigenvalues.clamp_min(0.0).sqrt()) @ within.eigenvectors.T @ inverse
