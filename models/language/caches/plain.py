"""Contexts on the model's own cache: for recurrent, hybrid and sliding-window models, and unusual attention.

Contexts of one length stand in one batch, a *cohort*. A cohort splits where some of its contexts are kept and others
extended; cohorts of one length are merged before a forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feynkac.base.contract import Rows
from feynkac.models.language.caches.opening import find_device
from feynkac.models.language.editing.edits import NOTHING, Laid

if TYPE_CHECKING:
    from feynkac.models.language.caches.twin import Twins


@dataclass
class Cohort:
    """Contexts of one length: `members[r]` is the number of the context in row `r` of `cache`."""

    cache: Any
    length: int
    members: NDArray[np.int64]


class PlainContexts:
    """See `feynkac.models.language.protocols.Contexts`."""

    def __init__(self, twins: Twins, prompts: Sequence[Sequence[int]], laid: Laid | None = None) -> None:
        self.forwarded = 0
        self._twins, self._laid = twins, laid or NOTHING
        self._of = np.arange(len(prompts))
        """(U,) the prompt of each context."""
        self._device = find_device(twins.model)
        self._prompts = prompts
        self._cohorts: list[Cohort] = []

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(U,) tokens of each context, its prompt among them."""
        lengths = np.zeros(sum(len(c.members) for c in self._cohorts), np.int64)
        for cohort in self._cohorts:
            lengths[cohort.members] = cohort.length
        return lengths

    @torch.inference_mode()
    def start(self) -> Tensor:
        """Forward each prompt once, prompts of one length together; (G, V) float32 logits."""
        sizes = np.array([len(prompt) for prompt in self._prompts])
        self._cohorts = []
        parts: list[tuple[NDArray[np.int64], Tensor]] = []
        for length in np.unique(sizes):
            members = np.flatnonzero(sizes == length)
            ids = torch.tensor([list(self._prompts[g]) for g in members.tolist()], device=self._device)
            positions = torch.arange(int(length), device=self._device).expand_as(ids)
            with self._twins.borrow() as twin, self._laid.on(twin, members, positions):
                logits, cache = twin.forward.last(ids)
            self._cohorts.append(Cohort(cache, int(length), members))
            parts.append((members, logits))
        self.forwarded += int(sizes.sum())
        return _in_order(parts)

    @torch.inference_mode()
    def extend(self, parents: Rows, tokens: NDArray[np.int64]) -> Tensor:
        """See `Contexts.extend`; one forward pass for each length."""
        place = np.empty((len(self.lengths), 2), np.int64)  # the cohort and the row of each context
        for c, cohort in enumerate(self._cohorts):
            place[cohort.members] = np.stack([np.full(len(cohort.members), c), np.arange(len(cohort.members))], 1)
        of, rows, extended = place[parents, 0], place[parents, 1], tokens >= 0
        self._of = self._of[parents]
        kept: list[Cohort] = []
        growing: list[Cohort] = []
        for c, cohort in enumerate(self._cohorts):
            stay, grow = (np.flatnonzero((of == c) & chosen) for chosen in (~extended, extended))
            if len(stay):
                kept.append(_select(cohort, rows[stay], stay, self._device, split=len(grow) > 0))
            if len(grow):
                growing.append(_select(cohort, rows[grow], grow, self._device, split=False))
        growing = _merge(growing)
        number = np.cumsum(extended) - 1
        parts = [(number[cohort.members], self._grow(cohort, tokens)) for cohort in growing]
        self._cohorts = kept + growing
        return _in_order(parts) if parts else torch.empty(0, 0, device=self._device)

    def append(self, parents: Rows, tokens: Sequence[Sequence[int]], *, every: bool = False) -> Tensor:
        """See `Contexts.append`; one token after the other, for not every recurrent model continues by several."""
        return append_one_by_one(self.extend, parents, tokens, every)

    def _grow(self, cohort: Cohort, tokens: NDArray[np.int64]) -> Tensor:
        ids = torch.from_numpy(tokens[cohort.members]).to(self._device)[:, None]
        positions = torch.full_like(ids, cohort.length)
        with self._twins.borrow() as twin, self._laid.on(twin, self._of[cohort.members], positions, cohort.members):
            logits, cohort.cache = twin.forward.last(ids, cohort.cache, cohort.length)
        cohort.length += 1
        self.forwarded += len(cohort.members)
        return logits


def append_one_by_one(
    extend: Callable[[Rows, NDArray[np.int64]], Tensor], parents: Rows, tokens: Sequence[Sequence[int]], every: bool
) -> Tensor:
    """`Contexts.append` by as many calls of its `extend` as the longest list has tokens."""
    found: dict[tuple[int, int], Tensor] = {}
    logits = torch.empty(0, 0)
    for t in range(max([1, *map(len, tokens)])):
        some = np.array([row[t] if t < len(row) else -1 for row in tokens], np.int64)
        logits = extend(parents, some)
        found |= {(i, t): row for i, row in zip(np.flatnonzero(some >= 0).tolist(), logits, strict=True)}
        parents = np.arange(len(tokens))
    wanted = [key for key in sorted(found) if every or key[1] == len(tokens[key[0]]) - 1]
    return torch.stack([found[key] for key in wanted]) if wanted else logits[:0]


def _in_order(parts: list[tuple[NDArray[np.int64], Tensor]]) -> Tensor:
    """The rows of all parts, each at its number."""
    if len(parts) == 1 and (np.diff(parts[0][0]) > 0).all():
        return parts[0][1]
    order = np.argsort(np.concatenate([numbers for numbers, _ in parts]))
    logits = torch.cat([logits for _, logits in parts])
    return logits[torch.from_numpy(order).to(logits.device)]


def _select(cohort: Cohort, rows: Rows, members: NDArray[np.int64], device: Any, split: bool) -> Cohort:
    """The cohort of `rows`; `split` leaves the old one as it was."""
    cache = cohort.cache
    if split or not np.array_equal(rows, np.arange(len(cohort.members))):
        cache = _duplicate(cache) if split else cache
        cache.reorder_cache(torch.from_numpy(rows).to(device))  # the one selection that all layer types implement
    return Cohort(cache, cohort.length, members)


def _duplicate(cache: Any) -> Any:
    """A second cache on the same tensors; `reorder_cache` then gives it its own."""
    second = copy.copy(cache)
    second.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in second.layers:
        for name, value in vars(layer).items():
            if isinstance(value, dict | list):
                setattr(layer, name, copy.copy(value))
    return second


_STACKABLE = {
    "DynamicLayer",
    "DynamicSlidingWindowLayer",
    "LinearAttentionLayer",
    "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
    "DummyLayer",
}
"""Layer types all of whose memory is in `keys`, `values`, `conv_states` and `recurrent_states`, with rows first."""


def _merge(cohorts: list[Cohort]) -> list[Cohort]:
    """Cohorts of one length as one, where the cache's layers are of a kind known to allow it."""
    merged: list[Cohort] = []
    for cohort in cohorts:
        host = next((m for m in merged if m.length == cohort.length and _can_stack(m.cache)), None)
        if host is None:
            merged.append(cohort)
            continue
        for layer, other in zip(host.cache.layers, cohort.cache.layers, strict=True):
            _stack(layer, other)
        host.members = np.concatenate([host.members, cohort.members])
    return merged


def _can_stack(cache: Any) -> bool:
    return all(type(layer).__name__ in _STACKABLE for layer in cache.layers)


def _stack(layer: Any, other: Any) -> None:
    """Append the rows of `other`."""
    for name in ("keys", "values"):
        if isinstance(getattr(layer, name, None), Tensor):
            setattr(layer, name, torch.cat([getattr(layer, name), getattr(other, name)]))
    for name in ("conv_states", "recurrent_states"):
        states: dict[int, Tensor | None] = getattr(layer, name, {})
        for i, state in states.items():
            if state is not None:
                states[i] = torch.cat([state, getattr(other, name)[i]])
