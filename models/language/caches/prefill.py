"""Prompts forwarded: what is left of each, taken from what is remembered as far as that goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from feynkac.base.errors import is_out_of_memory
from feynkac.models.language.caches.forward import Last
from feynkac.models.language.caches.opening import find_device
from feynkac.models.language.caches.parts import Parts

if TYPE_CHECKING:
    from feynkac.models.language.caches.twin import Twins
    from feynkac.models.language.editing.edits import Laid

_PREFILL = 4096
"""Prompt tokens in one forward pass: bounds the memory of activations."""
_LEAST = 16
"""Prompt tokens in one forward pass, at least, however little memory there is."""
_WORTH = 128
"""Tokens from which on a pass of its own is worth it for what several prompts begin with."""
Ids = tuple[int, ...]
Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, (B, Hkv, P, D)."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """What is left of a prompt of P tokens that was forwarded; its tensors are never written to."""

    ids: Ids
    layers: Layers
    logits: Tensor
    """(V,) float32 behind its last token."""
    hidden: Tensor | None
    """(width,) float32, what the output layer read there; None where it cannot be told."""
    taken: int
    """Tokens that were forwarded for it."""

    @property
    def nbytes(self) -> int:
        tensors = [x for pair in self.layers for x in pair] + [self.logits]
        return sum(x.numel() * x.element_size() for x in tensors)


class Prefill:
    """Forwards distinct prompts of one batch; `first` (D,) is the number that each has in `laid`.

    Where memory runs out, fewer prompts go into a pass, and then fewer tokens, which `parts` is told.
    """

    def __init__(
        self, twins: Twins, laid: Laid, prompts: Sequence[Ids], first: NDArray[np.int64], parts: Parts | None = None
    ) -> None:
        self._parts = parts or Parts()
        self._twins, self._laid, self._prompts, self._first = twins, laid, prompts, first.tolist()
        self._device = find_device(twins.model)

    def run(self) -> list[Prefix]:
        """What is left of each prompt."""
        kinds = [self._laid.kind(g) for g in self._first]
        known = [self._twins.remembered.find(ids, kind) for ids, kind in zip(self._prompts, kinds, strict=True)]
        fresh = [i for i, (before, _) in enumerate(known) if before is None and kinds[i] is None]
        begun = self._begin(fresh)
        if begun:
            for i in fresh:
                known[i] = begun, min(len(begun.ids), len(self._prompts[i]) - 1)
        left = [replace(before, taken=0) if before else None for before, _ in known]
        for members in self._group([n for _, n in known], [before for before, _ in known]):
            before, n = known[members[0]]
            for i, prefix in zip(members, self._forward(members, self._prompts, before, n), strict=True):
                left[i] = prefix
        found = [prefix for prefix in left if prefix is not None]
        if begun:
            found[fresh[0]] = replace(found[fresh[0]], taken=found[fresh[0]].taken + begun.taken)
        return found

    def _begin(self, members: Sequence[int]) -> Prefix | None:
        """What several prompts all begin with, forwarded once; None where that is not worth a pass of its own."""
        prompts = [self._prompts[i] for i in members]
        common = min((count_common(prompts[0], other) for other in prompts[1:]), default=0)
        if common * (len(prompts) - 1) < _WORTH:
            return None
        (begun,) = self._forward(members[:1], {members[0]: prompts[0][:common]}, None, 0)
        return begun

    def _group(self, known: Sequence[int], before: Sequence[Prefix | None]) -> Iterator[list[int]]:
        """Prompts of one length, of which the same is known, as far as they fit in one forward pass."""
        alike: dict[tuple[int, int, int], list[int]] = {}
        for i, (ids, n, prefix) in enumerate(zip(self._prompts, known, before, strict=True)):
            if n < len(ids):
                alike.setdefault((len(ids), n, id(prefix)), []).append(i)
        for (size, _, _), members in sorted(alike.items()):
            most = max(1, _PREFILL // size)
            yield from (members[start : start + most] for start in range(0, len(members), most))

    def _forward(
        self,
        members: Sequence[int],
        texts: Mapping[int, Ids] | Sequence[Ids],
        before: Prefix | None,
        n: int,
        stretch: int = _PREFILL,
    ) -> list[Prefix]:
        """Some texts behind the first `n` tokens of `before`, or halves of what was too much for the memory."""
        longest = min(stretch, max(len(texts[i]) for i in members) - n)
        try:
            return list(self._pass(members, texts, before, n, longest))
        except Exception as cause:
            if not is_out_of_memory(cause) or (len(members) == 1 and longest <= _LEAST):
                raise
            self._parts.tell(len(members), cause)
        if len(members) == 1:  # outside, where the error no longer holds what it ran out of
            return self._forward(members, texts, before, n, max(longest // 2, _LEAST))
        half = len(members) // 2
        return [prefix for some in (members[:half], members[half:]) for prefix in self._forward(some, texts, before, n)]

    def _pass(
        self,
        members: Sequence[int],
        texts: Mapping[int, Ids] | Sequence[Ids],
        before: Prefix | None,
        n: int,
        stretch: int,
    ) -> Iterator[Prefix]:
        """By the model's own attention, one stretch of the texts after the other."""
        ids = torch.tensor([texts[i] for i in members], device=self._device)
        numbers = np.array([self._first[i] for i in members])
        last = Last(torch.empty(0, device="cpu"), None, _expand(before, n, len(members)))
        with self._twins.borrow() as twin:
            for start in range(n, ids.shape[1], stretch):
                some = ids[:, start : start + stretch]
                positions = torch.arange(start, start + some.shape[1], device=ids.device).expand_as(some)
                with self._laid.on(twin, numbers, positions):
                    last = twin.forward.last(some, last.cache, start)
        for row, i in enumerate(members):
            layers = [_pick(layer, row) for layer in last.cache.layers]
            hidden = None if last.hidden is None else last.hidden[row]
            yield Prefix(texts[i], layers, last.logits[row], hidden, ids.shape[1] - n)


def count_common(some: Ids, others: Ids) -> int:
    """How many tokens two texts have in common, from their beginnings on."""
    return next((n for n, (a, b) in enumerate(zip(some, others, strict=False)) if a != b), min(len(some), len(others)))


def _pick(layer: Any, row: int) -> tuple[Tensor, Tensor]:
    keys, values = (x[row : row + 1].contiguous() for x in (layer.keys, layer.values))
    return keys, values


def _expand(before: Prefix | None, n: int, rows: int) -> DynamicCache:
    """A cache for `rows` texts that all begin with the first `n` tokens of `before`."""
    cache = DynamicCache()
    for number, (keys, values) in enumerate([] if before is None else before.layers):
        cache.update(keys[:, :, :n].expand(rows, -1, -1, -1), values[:, :, :n].expand(rows, -1, -1, -1), number)
    return cache
