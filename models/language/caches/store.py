"""Keys and values of all particles: each prompt once in every layer, and the own tokens of each context behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass
class Pass:
    """Where one forward pass of F rows, Q new tokens each, reads and writes, the same in all layers.

    `slots`: (F,) the slot of each row, or None: row r stands in slot r. `at`: the time index of the first new token,
    for all rows or (F,). `length`: own tokens of the longest row, the new ones included. `mask`: None or
    (F, 1, Q, length), 0 or -inf. `parts`: each prompt in use, by number, with its rows; of a single one they are None.
    Where attention reads the rows in their slots, `starts` (F,) int32 are the own tokens of each before the pass, and
    no mask is made; else it is None.
    """

    rows: int = 0
    n_new: int = 1
    slots: Tensor | None = None
    at: int | Tensor = 0
    length: int = 0
    mask: Tensor | None = None
    parts: list[tuple[int, Tensor | None]] = field(default_factory=list)
    starts: Tensor | None = None


class SharedLayer(CacheLayerMixin):
    """One layer. Keys and values: `prefixes`, (1, Hkv, P, D) of each prompt; `own`, (slots, Hkv, time, D)."""

    is_sliding = False

    def __init__(self, cache: SharedCache, prefixes: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.cache, self.prefixes, self.is_initialized = cache, prefixes, True
        self.own = tuple(x.new_empty(0, x.shape[1], 0, x.shape[3]) for x in prefixes[0])
        self.biases: dict[int, Tensor] = {}
        """(Hq, P) added to the scores of some prompts' keys, by the number of the prompt."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store the new tokens, (F, Hkv, Q, D); returns the rows' own tokens only, (F, Hkv, length, D).

        Where attention reads the rows in their slots, these are all slots, (slots, Hkv, time, D).
        """
        self.cache.current = self
        keys, values = self.own
        return _write(keys, key_states, self.cache.step), _write(values, value_states, self.cache.step)

    def reserve(self, slots: int, time: int, used: tuple[int, int]) -> None:
        """Make room; of the first `used` slots and times the content is kept.

        The rest is zeros, not left as found: a masked key may be anything except NaN.
        """
        stores = []
        for old in self.own:
            new = old.new_zeros(slots, old.shape[1], time, old.shape[3])
            new[: used[0], :, : used[1]] = old[: used[0], :, : used[1]]
            stores.append(new)
        self.own = tuple(stores)

    def copy(self, source: Tensor, target: Tensor, length: int) -> None:
        """Copy `length` own tokens from slots to slots, which have none in common."""
        for store in self.own:
            store[:, :, :length].index_copy_(0, target, store[:, :, :length].index_select(0, source))

    def promote(self, n: int, firsts: Mapping[int, int], slots: int, length: int) -> None:
        """Move the first `n` own tokens of slot `firsts[g]` behind prompt g, and those of all `slots` out of them."""
        for g, slot in firsts.items():
            pairs = zip(self.prefixes[g], self.own, strict=True)
            keys, values = (torch.cat([old, own[slot : slot + 1, :, :n]], 2) for old, own in pairs)
            self.prefixes[g] = keys, values
            if g in self.biases:
                self.biases[g] = torch.nn.functional.pad(self.biases[g], (0, n))
        for store in self.own:
            store[:slots, :, : length - n] = store[:slots, :, n:length].clone()

    def drop(self, used: NDArray[np.int64]) -> None:
        """Free prompts that no context continues."""
        for g in set(range(len(self.prefixes))).difference(used.tolist()):
            keys, values = (x[:, :, :0].clone() for x in self.prefixes[g])
            self.prefixes[g] = keys, values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def get_seq_length(self) -> int:
        return self.cache.longest

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.longest + query_length, 0

    def get_max_length(self) -> int:
        return -1


def _write(store: Tensor, new: Tensor, step: Pass) -> Tensor:
    n_new = new.shape[2]
    if step.slots is None and isinstance(step.at, int):
        own = store[: step.rows, :, : step.length]
        own[:, :, step.at : step.at + n_new] = new  # also converts, which a write by index does not
        return own if step.starts is None else store
    slots = torch.arange(step.rows, device=new.device) if step.slots is None else step.slots
    at = step.at[:, None] if isinstance(step.at, Tensor) else step.at
    store[slots[:, None], :, at + torch.arange(n_new, device=new.device)] = new.transpose(1, 2).to(store.dtype)
    if step.starts is not None:
        return store
    own = store[:, :, : step.length]
    return own[: step.rows] if step.slots is None else own.index_select(0, step.slots)


class SharedCache(Cache):
    """The layers of `SharedContexts`, in the form that transformers passes through a model."""

    def __init__(self, layers: Sequence[list[tuple[Tensor, Tensor]]]) -> None:
        self.shared = [SharedLayer(self, prefixes) for prefixes in layers]
        super().__init__(layers=[*self.shared])
        self.step = Pass()
        self.longest = 0
        """Tokens of the longest context in the forward pass, prompt and new token included."""
        self.current = self.shared[0]
        """The layer last updated, whose attention comes next."""
