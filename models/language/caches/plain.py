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
from feynkac.base.errors import ArgumentError
from feynkac.models.language.caches.opening import check_rope, find_device, find_rope_border
from feynkac.models.language.editing.edits import NOTHING, Laid

if TYPE_CHECKING:
    from feynkac.models.language.caches.forward import Last
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
        self.hidden: Tensor | None = None
        """(F, width) float32, what the output layer read for the logits given last; None where it cannot be told."""
        self._twins, self._laid = twins, laid or NOTHING
        self._of = np.arange(len(prompts))
        """(U,) the prompt of each context."""
        self._device, self._border = find_device(twins.model), find_rope_border(twins.model)
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
        parts: list[tuple[NDArray[np.int64], Last]] = []
        for length in np.unique(sizes):
            members = np.flatnonzero(sizes == length)
            ids = torch.tensor([list(self._prompts[g]) for g in members.tolist()], device=self._device)
            positions = torch.arange(int(length), device=self._device).expand_as(ids)
            with self._twins.borrow() as twin, self._laid.on(twin, members, positions):
                last = twin.forward.last(ids)
            self._cohorts.append(Cohort(last.cache, int(length), members))
            parts.append((members, last))
        self.forwarded += int(sizes.sum())
        return self._arrange(parts)

    def save(self) -> dict[str, Any]:
        """See `feynkac.base.capabilities.SavesContexts`: what each layer keeps, where its kind is known."""
        cohorts = [
            {
                "length": cohort.length,
                "members": cohort.members,
                "layers": [_read_layer(layer) for layer in cohort.cache.layers],
            }
            for cohort in self._cohorts
        ]
        return {"cohorts": cohorts, "of": self._of, "forwarded": self.forwarded}

    def load(self, saved: dict[str, Any]) -> None:
        """Take up what `save` gave. The prompts are forwarded, for what their caches are is the model's own affair."""
        self.start()
        like = self._cohorts[0].cache
        self._cohorts = []
        for cohort in saved["cohorts"]:
            cache = _duplicate(like)
            for layer, given in zip(cache.layers, cohort["layers"], strict=True):
                for name, value in given.items():
                    setattr(layer, name, _move(value, self._device))
            self._cohorts.append(Cohort(cache, cohort["length"], cohort["members"]))
        self._of, self.forwarded = saved["of"], saved["forwarded"]

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
        return self._arrange(parts)

    def append(self, parents: Rows, tokens: Sequence[Sequence[int]], *, every: bool = False) -> Tensor:
        """See `Contexts.append`; one token after the other, for not every recurrent model continues by several."""
        width = 0

        def extend(parents: Rows, tokens: NDArray[np.int64]) -> Tensor:
            nonlocal width
            logits = self.extend(parents, tokens)
            width = 0 if self.hidden is None else self.hidden.shape[1]
            return logits if self.hidden is None else torch.cat([logits, self.hidden], 1)

        found = append_one_by_one(extend, parents, tokens, every)
        self.hidden = found[:, found.shape[1] - width :] if width else None
        return found[:, : found.shape[1] - width]

    def _grow(self, cohort: Cohort, tokens: NDArray[np.int64]) -> Last:
        if cohort.length >= self._border:
            check_rope(self._twins.model, cohort.length + 1)
        ids = torch.from_numpy(tokens[cohort.members]).to(self._device)[:, None]
        positions = torch.full_like(ids, cohort.length)
        with self._twins.borrow() as twin, self._laid.on(twin, self._of[cohort.members], positions, cohort.members):
            last = twin.forward.last(ids, cohort.cache, cohort.length)
        cohort.cache = last.cache
        cohort.length += 1
        self.forwarded += len(cohort.members)
        return last

    def _arrange(self, parts: list[tuple[NDArray[np.int64], Last]]) -> Tensor:
        """The logits of all parts, each at its number; the hidden states alike."""
        if not parts:
            self.hidden = None
            return torch.empty(0, 0, device=self._device)
        numbers = [some for some, _ in parts]
        hidden = [last.hidden for _, last in parts if last.hidden is not None]
        self.hidden = _in_order(numbers, hidden) if len(hidden) == len(parts) else None
        return _in_order(numbers, [last.logits for _, last in parts])


def append_one_by_one(
    extend: Callable[[Rows, NDArray[np.int64]], Tensor], parents: Rows, tokens: Sequence[Sequence[int]], every: bool
) -> Tensor:
    """`Contexts.append` by as many calls of its `extend` as the longest list has tokens."""
    found: dict[tuple[int, int], Tensor] = {}
    logits = torch.empty(0, 0, device="cpu")
    for t in range(max([1, *map(len, tokens)])):
        some = np.array([row[t] if t < len(row) else -1 for row in tokens], np.int64)
        logits = extend(parents, some)
        found |= {(i, t): row for i, row in zip(np.flatnonzero(some >= 0).tolist(), logits, strict=True)}
        parents = np.arange(len(tokens))
    wanted = [key for key in sorted(found) if every or key[1] == len(tokens[key[0]]) - 1]
    return torch.stack([found[key] for key in wanted]) if wanted else logits[:0]


def _in_order(numbers: list[NDArray[np.int64]], parts: list[Tensor]) -> Tensor:
    """The rows of all parts, each at its number."""
    if len(parts) == 1 and (np.diff(numbers[0]) > 0).all():
        return parts[0]
    rows = torch.cat(parts)
    return rows[torch.from_numpy(np.argsort(np.concatenate(numbers))).to(rows.device)]


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


def _read_layer(layer: Any) -> dict[str, Any]:
    """What a layer of a known kind keeps. Raises ArgumentError for one of another kind."""
    if type(layer).__name__ not in _STACKABLE:
        raise ArgumentError(
            f"checkpoint= with a cache of {type(layer).__name__}s: what they keep is not known, and cannot be written; "
            "run without checkpoint="
        )
    return {name: value for name, value in vars(layer).items() if _is_kept(value)}


def _is_kept(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_kept, value.values()))
    return value is None or isinstance(value, Tensor | bool | int)


def _move(value: Any, device: Any) -> Any:
    if isinstance(value, dict):
        return {key: _move(each, device) for key, each in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


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
