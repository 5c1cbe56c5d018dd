"""Logistic regression by Newton's method, and probes that say of an activation what it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import as_whole, read_real
from feynkac.models.edits.fitting.captures import Activations
from feynkac.tensors import read_tensor

_STEPS = 100
SMALL = 1e-5
"""The length of a difference, as a share of that of the activations, up to which it is rounding."""


def fit_logistic(values: Tensor, labels: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """(d,) weight and () offset of p(label 1 | x) = sigmoid(weight . x + offset), for (n, d) values, (n,) labels.

    Minimises the mean log loss, in nats, plus ridge / 2 |w|^2, where w weighs deviations from the mean in units of
    their root mean square length: one ridge means the same at every layer. The exact minimum, in float64: w lies in the
    span of the n deviations, where Newton's method is cheap however large d is.
    """
    mean = values.mean(0)
    scale = (values - mean).square().sum(1).mean().sqrt().clamp_min(1e-30)
    basis, within = torch.linalg.qr(((values - mean) / scale).T)
    rows = torch.cat(
        [within.T, torch.ones(len(values), 1, dtype=values.dtype, device="cpu")], 1
    )  # the last weight is the offset
    penalty = torch.full((rows.shape[1],), ridge, dtype=values.dtype, device="cpu")
    penalty[-1] = 0.0
    found = _minimise(rows, labels, penalty)
    weight = basis @ found[:-1] / scale
    return weight, found[-1] - weight @ mean


def _minimise(rows: Tensor, labels: Tensor, penalty: Tensor) -> Tensor:
    def loss(w: Tensor) -> Tensor:
        score = rows @ w
        return (torch.nn.functional.softplus(score) - labels * score).mean() + 0.5 * (penalty * w * w).sum()

    w = torch.zeros(rows.shape[1], dtype=rows.dtype, device="cpu")
    for _ in range(_STEPS):
        p = (rows @ w).sigmoid()
        gradient = rows.T @ (p - labels) / len(rows) + penalty * w
        if gradient.norm() < 1e-10:
            break
        curvature = (rows * (p * (1 - p) / len(rows))[:, None]).T @ rows + torch.diag(penalty)
        curvature[-1, -1] += 1e-12
        step = torch.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-8 and loss(w - size * step) > loss(w) - 1e-4 * size * (gradient @ step):
            size /= 2
        w = w - size * step
    return w


@dataclass(frozen=True, eq=False)
class Probe:
    """Says of (..., d) activations whether p(property | activation) > `threshold`: for `when=` of an edit.

    `weight` (d,) and `offset` (): the log-odds are weight . h + offset. Raises ArgumentError for other shapes.
    """

    weight: Tensor
    offset: Tensor
    threshold: float = 0.5
    layer: int | None = None

    def __post_init__(self) -> None:
        weight, offset = read_tensor("weight", self.weight), read_tensor("offset", self.offset)
        if weight.ndim != 1 or offset.numel() != 1:
            raise ArgumentError(f"a probe of {tuple(weight.shape)} and {tuple(offset.shape)}; give (d,) and ()")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "offset", offset.reshape(()))
        object.__setattr__(self, "threshold", read_real("threshold", self.threshold, 0.0))

    def __call__(self, value: Tensor) -> Tensor:
        """(...,) bool."""
        return self.find_probability(value) > self.threshold

    def find_probability(self, value: Tensor) -> Tensor:
        """(...,) float32 probabilities of the property. Raises ArgumentError for activations of another width."""
        if value.shape[-1] != len(self.weight):
            raise ArgumentError(f"a probe of {len(self.weight)} numbers for activations of {value.shape[-1]}")
        weight, offset = self.weight.to(value.device, torch.float32), self.offset.to(value.device, torch.float32)
        return (value.float() @ weight + offset).sigmoid()

    def __repr__(self) -> str:
        return f"Probe(layer={self.layer}, threshold={self.threshold})"


def fit_probe(
    toward: Activations, away: Activations, layer: int | None = None, *, ridge: float = 0.01, threshold: float = 0.5
) -> Probe:
    """A linear probe that tells the activations of two groups of texts apart (Alain and Bengio 2016).

        lm.edited(Add(direction, layer=14, when=fit_probe(toward, away, layer=14)))

    `layer`: which, where several were captured. `ridge`: see `fit_logistic`; `threshold`: a probability. Raises
    ArgumentError for too few texts, groups of different places, and groups of one mean.
    """
    at = read_layer(toward, layer)
    if read_layer(away, layer) != at or away.at[at].shape[1:] != toward.at[at].shape[1:] or toward.at[at].ndim != 2:
        raise ArgumentError(f"{quote(toward)} and {quote(away)} are of different places, or of several positions")
    if min(len(toward), len(away)) < 2:
        raise ArgumentError(f"too few texts: {len(toward)} toward and {len(away)} away; a probe takes 2 of each")
    if not 0.0 < (level := read_real("threshold", threshold, 0.0)) < 1.0:
        raise ArgumentError(f"threshold is {quote(threshold)}; it must lie between 0 and 1")
    if (strength := read_real("ridge", ridge, 0.0)) == 0.0:
        raise ArgumentError("ridge is 0, with which texts that can be told apart have no best probe; give 0.01, say")
    values = torch.cat([toward.at[at], away.at[at]]).double()
    labels = torch.cat([torch.ones(len(toward), device="cpu"), torch.zeros(len(away), device="cpu")]).double()
    gap = (toward.at[at].double().mean(0) - away.at[at].double().mean(0)).norm()
    if gap <= SMALL * values.norm() / len(values) ** 0.5:  # where the best probe weighs nothing: all or none
        raise ArgumentError(f"the difference is 0 at layer {at}: both sides are the same there; use other texts")
    weight, offset = fit_logistic(values, labels, strength)
    return Probe(weight.float(), offset.float(), level, at)


def read_layer(activations: Activations, layer: int | None) -> int:
    """The layer asked for, or the only one there is. Raises ArgumentError for one that was not captured."""
    if not isinstance(activations, Activations):
        raise ArgumentError(f"activations are {quote(activations)}; give what capture(lm, texts) returns")
    has = sorted(activations.at)
    if layer is None and len(has) == 1:
        return has[0]
    number = None if layer is None else as_whole(layer)
    if number is None or number not in activations.at:
        raise ArgumentError(f"layer is {quote(layer)}; these activations are of layers {has}: give one of them")
    return number
