"""Ways to fit one direction to activations at one layer, and how well it tells held-out texts apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError
from feynkac.models.edits.fitting.logistic import fit_logistic

Method = Literal["difference", "pca", "logistic", "entropy"]
METHODS: tuple[str, ...] = get_args(Method)
_FOLDS = 5
RIDGE = 0.01
"""The regularisation of logistic fits (see `fit_logistic`)."""


@dataclass(frozen=True)
class Graded:
    """Activations of one layer and what they are to be told apart by. All of float64."""

    values: Tensor
    """(n, d), or (n, K, d)."""
    grades: Tensor
    """(n,) 1 toward and 0 away, or weights."""
    numbers: Tensor
    """(n,) which texts are held out together: those of one number."""
    grouped: bool = True
    """Whether grades are those of two groups, and not weights."""
    paired: bool = False
    """Whether text i toward belongs to text i away."""

    @classmethod
    def compare(cls, high: Tensor, low: Tensor, paired: bool) -> Graded:
        """Two groups, (n, d) and (m, d). Raises ArgumentError for pairs of unequal number."""
        if paired and len(high) != len(low):
            raise ArgumentError(
                f"method='pca' takes the differences of pairs, and there are {len(high)} texts toward and {len(low)} "
                "away; give as many, in pairs, or another method"
            )
        grades = torch.cat([torch.ones(len(high), device="cpu"), torch.zeros(len(low), device="cpu")]).double()
        numbers = torch.cat([torch.arange(len(high), device="cpu"), torch.arange(len(low), device="cpu")])
        return cls(torch.cat([high, low]).double(), grades, numbers, paired=paired)

    @classmethod
    def weigh(cls, values: Tensor, weights: Tensor) -> Graded:
        """One group (n, d) with weights (n,)."""
        return cls(values.double(), weights, torch.arange(len(values), device="cpu"), grouped=False)

    @cached_property
    def difference(self) -> Tensor:
        """(d,) what a direction of this sample moves along itself: the mean by grade less the mean of the others."""
        rest = 1.0 - self.grades if self.grouped else torch.ones_like(self.grades)
        share = self.grades / self.grades.sum().clamp_min(1e-30) - rest / rest.sum()
        return torch.tensordot(share, self.values, 1)

    def fit(self, method: str) -> Tensor:
        """(d,), or (K, d): the direction, as long as the difference is along it."""
        fits: dict[str, Callable[[Graded], Tensor]] = {"pca": fit_pca, "logistic": _fit_normal}
        if method not in fits:
            return self.difference
        found = fits[method](self)
        unit = found / found.norm().clamp_min(1e-30)
        return unit * (unit @ self.difference)

    def select(self, rows: Tensor) -> Graded:
        """The same of some texts only."""
        return replace(self, values=self.values[rows], grades=self.grades[rows], numbers=self.numbers[rows])


def fit_pca(sample: Graded) -> Tensor:
    """(d,) the direction in which differences of pairs are largest, or deviations from the centre if not paired."""
    high, low = sample.values[sample.grades == 1], sample.values[sample.grades == 0]
    differences = high - (low if sample.paired else low.mean(0))
    return torch.linalg.svd(differences, full_matrices=False).Vh[0]


def _fit_normal(sample: Graded) -> Tensor:
    return fit_logistic(sample.values, sample.grades, RIDGE)[0]


def measure_separation(sample: Graded, method: str) -> float | None:
    """The share of held-out pairs of texts that the direction puts in order; None with too few texts to hold out."""
    high = int(sample.grades.sum()) if sample.grouped else len(sample.grades)
    folds = min(_FOLDS, high, len(sample.grades) - high if sample.grouped else high // 2)
    if folds < 2:
        return None
    right, pairs = 0.0, 0
    for fold in range(folds):
        out = sample.numbers % folds == fold
        direction = sample.select(~out).fit(method)
        held = sample.select(out)
        found = count_in_order(held.values @ direction, held.grades)
        right, pairs = right + found[0], pairs + found[1]
    return right / pairs if pairs else None


def count_in_order(scores: Tensor, grades: Tensor) -> tuple[float, int]:
    """How many pairs of unequal grades are scored in their order, one half for ties; and how many there are."""
    right, pairs = 0.0, 0
    for score, grade in zip(scores.split(1024), grades.split(1024), strict=True):
        above = grade[:, None] > grades
        gap = score[:, None] - scores
        right += float(((gap > 0).double() + 0.5 * (gap == 0))[above].sum())
        pairs += int(above.sum())
    return right, pairs
