"""Ways to spell texts: their masses, and which of them a beam keeps.

A *hypothesis* is a context of tokens, which spell the text up to some byte, and the tokens that go on with the bytes
behind it. Its mass is the probability of the former times that of the latter, all in one sum: no spelling of the text
is counted twice, and none is left out unless the beam drops it (Vieira et al. 2024, "From Language Models over Tokens
to Language Models over Characters").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feynkac.models.language.bytewise.kernels import copy_parts


class Beam(NamedTuple):
    """What is kept of the ways to spell a text."""

    width: int | None
    """So many of the heaviest, and the heaviest that ends with a whole token; None for all."""
    log_least: float
    """Log of the share of all mass that each of them has at least, the heaviest whole one excepted."""


@dataclass
class Hypotheses:
    """H ways to spell the texts of U contexts, those of one context side by side."""

    owner: NDArray[np.int64]
    """(H,) the context of each."""
    tokens: NDArray[np.int64]
    """(H,) the context of whole tokens beneath."""
    base: NDArray[np.float64]
    """(H,) nats: share of the whole tokens in their context, less the log-total of the logits behind them."""
    log_end: NDArray[np.float64]
    """(H,) nats that the text ends here, the share included; -inf where a token is begun."""
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    """(H,) the places in the order of words of the tokens that may be the next."""
    depth: NDArray[np.int64]
    """(H,) how many bytes of it are written."""
    at: NDArray[np.int64]
    """(H,) where the logits of these tokens begin in `values`."""
    values: NDArray[np.float32]

    def take(self, kept: NDArray[np.int64]) -> Hypotheses:
        """Some of them, with their logits where they were."""
        return replace(self, **{f.name: getattr(self, f.name)[kept] for f in fields(self)[:-1]})

    def go_on(self, low: NDArray[np.int64], high: NDArray[np.int64], log_kept: NDArray[np.float64]) -> Hypotheses:
        """The same by one byte longer, which leaves these places, and the masses (H,) that are now all of a context."""
        self.at, self.base = self.at + low - self.low, self.base - log_kept
        self.low, self.high, self.depth = low, high, self.depth + 1
        self.log_end = np.full(len(low), -np.inf)
        return self

    def pack(self) -> Hypotheses:
        """The same without the logits that none of them needs."""
        size = self.high - self.low
        values = np.empty(size.sum(), np.float32)
        copy_parts(self.values, self.at, size, values)
        self.at, self.values = np.cumsum(size) - size, values
        return self


class Kept(NamedTuple):
    """(U,) log-masses of the ways of each context: of all, and of those kept."""

    all: NDArray[np.float64]
    total: NDArray[np.float64]


def prune(
    owner: NDArray[np.int64], mass: NDArray[np.float64], whole: NDArray[np.bool_], n: int, beam: Beam
) -> tuple[NDArray[np.int64], Kept]:
    """The ways that a beam keeps, and the log-masses of the n contexts `owner` (W,) that they belong to."""
    everything = _sum_by(owner, mass, n)
    alive = mass > -np.inf
    if beam.width is None:
        return np.flatnonzero(alive), Kept(everything, everything)
    order = np.lexsort((-mass, owner))
    sorted_owner = owner[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_owner, sorted_owner)
    with np.errstate(invalid="ignore"):
        heavy = (rank < beam.width) & (mass[order] - everything[sorted_owner] >= beam.log_least)
    wholes = np.flatnonzero(whole[order])
    heavy[wholes[np.unique(sorted_owner[wholes], return_index=True)[1]]] = True
    kept = np.sort(order[heavy & alive[order]])
    return kept, Kept(everything, _sum_by(owner[kept], mass[kept], n))


def _sum_by(owner: NDArray[np.int64], mass: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    total = np.full(n, -np.inf)
    np.logaddexp.at(total, owner, mass)
    return total


def add_loss(dropped: NDArray[np.float64], kept: Kept) -> NDArray[np.float64]:
    """`dropped` and what was dropped now; all of it where nothing is left behind a beam that has dropped something."""
    lost = kept.total == -np.inf
    with np.errstate(invalid="ignore"):
        now = np.where(lost, np.where(dropped > 0, np.inf, 0.0), np.maximum(kept.all - kept.total, 0.0))
    return dropped + now


def join(parts: Sequence[Hypotheses]) -> Hypotheses:
    """All of them, those of one context side by side."""
    offsets = np.cumsum([0, *(len(some.values) for some in parts)])
    for some, offset in zip(parts, offsets, strict=False):
        some.at = some.at + offset
    columns = [np.concatenate([getattr(some, f.name) for some in parts]) for f in fields(Hypotheses)]
    return Hypotheses(*columns).take(np.argsort(columns[0], kind="stable"))
