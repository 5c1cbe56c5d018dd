"""One key-value cache for all particles: each prompt once, and the tokens of each live context behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from feynkac.models.attention import attention_configs, shared_attention_in
from feynkac.models.forward import Forward, selected_rows
from feynkac.smc.protocols import Rows

_FIRST_TOKENS = 32
"""Room made for each context's own tokens at first; it doubles when it is full."""
_PREFILL = 4096
"""Prompt tokens in one forward pass: bounds the memory of activations."""


@dataclass
class Pass:
    """Where one forward pass of F rows, Q new tokens each, reads and writes, the same in all layers.

    `slots`: (F,) the slot of each row, or None: row r stands in slot r. `at`: the time index of the first new token,
    for all rows or (F,). `length`: own tokens of the longest row, the new ones included. `mask`: None or
    (F, 1, Q, length), 0 or -inf. `parts`: each prompt in use, by number, with its rows; of a single one they are None.
    """

    rows: int = 0
    slots: Tensor | None = None
    at: int | Tensor = 0
    length: int = 0
    mask: Tensor | None = None
    parts: list[tuple[int, Tensor | None]] = field(default_factory=list)


class SharedLayer(CacheLayerMixin):
    """One layer. Keys and values: `prefixes`, (1, Hkv, P, D) of each prompt; `own`, (slots, Hkv, time, D)."""

    is_sliding = False

    def __init__(self, cache: SharedCache, prefixes: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.cache, self.prefixes, self.is_initialized = cache, prefixes, True
        self.own = tuple(x.new_empty(0, x.shape[1], 0, x.shape[3]) for x in prefixes[0])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store the new tokens, (F, Hkv, Q, D); returns the rows' own tokens only, (F, Hkv, length, D)."""
        self.cache.current = self
        keys, values = self.own
        return _write(keys, key_states, self.cache.step), _write(values, value_states, self.cache.step)

    def reserve(self, slots: int, time: int, used: tuple[int, int]) -> None:
        """Make room; of the first `used` slots and times the content is kept.

        The rest is zeros, not left as found: a masked key may be anything except NaN.
        """
        grown = []
        for old in self.own:
            new = old.new_zeros(slots, old.shape[1], time, old.shape[3])
            new[: used[0], :, : used[1]] = old[: used[0], :, : used[1]]
            grown.append(new)
        self.own = tuple(grown)

    def copy(self, source: Tensor, target: Tensor, length: int) -> None:
        """Copy `length` own tokens from slots to slots, which have none in common."""
        for store in self.own:
            store[:, :, :length].index_copy_(0, target, store[:, :, :length].index_select(0, source))

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
        own[:, :, step.at : step.at + n_new] = new
        return own
    slots = torch.arange(step.rows, device=new.device) if step.slots is None else step.slots
    at = step.at[:, None] if isinstance(step.at, Tensor) else step.at
    store[slots[:, None], :, at + torch.arange(n_new, device=new.device)] = new.transpose(1, 2)
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


class SharedContexts:
    """See `feynkac.models.contexts.Contexts`.

    Context i has its own tokens in slot `_slot[i]`; U contexts take exactly the slots 0..U-1, so that a forward pass
    reads them as they lie. All index arithmetic is on the host, and goes to the device once a step.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], max_new: int) -> None:
        self.forwarded = 0
        self._model, self._forward = model, Forward(model)
        self._device = model.get_input_embeddings().weight.device
        self._configs = attention_configs(model)
        self._max_new = max_new
        self._prompts = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
        self._prompt = np.array([self._prompts.index(tuple(prompt)) for prompt in prompts], np.int64)
        self._prompt_length = np.array([len(prompt) for prompt in self._prompts], np.int64)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(U,) tokens of each context, its prompt among them."""
        return self._prompt_length[self._prompt] + self._length

    @torch.inference_mode()
    def start(self) -> Tensor:
        """Forward each distinct prompt once; (G, V) float32 logits, and one context for each prompt given."""
        logits: list[Tensor] = [torch.empty(0)] * len(self._prompts)
        prefixes: list[list[Any]] = [[] for _ in self._prompts]
        for members, ids in _batches(self._prompts, self._device):
            last, layers = self._prefill(ids)
            for row, g in enumerate(members):
                logits[g] = last[row]
                prefixes[g] = [tuple(x[row : row + 1].contiguous() for x in (y.keys, y.values)) for y in layers]
            self.forwarded += ids.numel()
        self._cache = SharedCache([list(layer) for layer in zip(*prefixes, strict=True)])
        self._room = (0, 0)
        self._slot = np.arange(len(self._prompt))
        self._length = np.zeros(len(self._prompt), np.int64)
        return torch.stack([logits[g] for g in self._prompt])

    def _prefill(self, ids: Tensor) -> tuple[Tensor, list[Any]]:
        """Last logits and layers of keys and values, by the model's own attention, one stretch of the prompt a pass."""
        cache: Any = DynamicCache()
        logits = torch.empty(0)
        for start in range(0, ids.shape[1], _PREFILL):
            logits, cache = self._forward.last(ids[:, start : start + _PREFILL], cache, start)
        return logits, cache.layers

    def extend(self, parents: Rows, tokens: NDArray[np.int64]) -> Tensor:
        """See `Contexts.extend`; one forward pass."""
        return self._advance(parents, tokens[:, None], (tokens >= 0).astype(np.int64))

    def append(self, parents: Rows, tokens: Sequence[Sequence[int]], *, every: bool = False) -> Tensor:
        """See `Contexts.append`; one forward pass, as long as the longest list."""
        count = np.array([len(some) for some in tokens], np.int64)
        padded = np.zeros((len(tokens), max(1, int(count.max(initial=0)))), np.int64)
        for row, some in zip(padded, tokens, strict=True):
            row[: len(some)] = some
        return self._advance(parents, padded, count, every)

    @torch.inference_mode()
    def _advance(
        self, parents: Rows, tokens: NDArray[np.int64], count: NDArray[np.int64], every: bool = False
    ) -> Tensor:
        """Context i becomes `parents[i]` and the first `count[i]` of `tokens[i]`; (F, V) logits where that is not 0."""
        self._place(parents, tokens.shape[1])
        rows = np.flatnonzero(count)
        if not len(rows):
            return torch.empty(0, 0, device=self._device)
        if len(rows) == len(count):
            rows = np.argsort(self._slot)  # all of them in the order of their slots, so that nothing is gathered
        first = self.lengths[rows, None]
        # What fills up the shorter lists is stored behind them, where the next tokens will overwrite it.
        positions = np.minimum(first + np.arange(tokens.shape[1]), first + count[rows, None] - 1)
        order = np.argsort(rows)
        at = count[rows[order]] - 1
        if every:
            at = np.concatenate([np.arange(last + 1) for last in at])
            order = np.repeat(order, count[rows[order]])
        ids, positions = self._to(np.stack([tokens[rows], positions]))
        order, at = self._to(np.stack([order, at]))
        self._cache.step = self._pass(rows, count[rows], tokens.shape[1])
        self._length[rows] += count[rows]
        self._cache.longest = int(self.lengths[rows].max())
        with shared_attention_in(self._configs), selected_rows(self._model, order, at) as select:
            logits = select(self._forward.all(ids, self._cache, position_ids=positions, particles=self._cache)[0])
        self.forwarded += int(count.sum())
        return logits

    def _place(self, parents: Rows, n_new: int) -> None:
        """Give each new context a slot below their number, its parent's own tokens in it, and room for `n_new` more."""
        n, source, length = len(parents), self._slot[parents], self._length[parents]
        heir = np.zeros(n, np.bool_)  # one child of each parent stays where the parent was, if that is below n
        heir[np.unique(source, return_index=True)[1]] = True
        heir &= source < n
        free = np.ones(n, np.bool_)
        free[source[heir]] = False
        slot = source.copy()
        slot[~heir] = np.flatnonzero(free)
        self._reserve(n, int(length.max(initial=0)) + n_new)
        moved = np.flatnonzero(~heir & (length > 0))
        if len(moved):
            pair = torch.from_numpy(np.stack([source[moved], slot[moved]])).to(self._device)
            for layer in self._cache.shared:
                layer.copy(pair[0], pair[1], int(length[moved].max()))
        self._prompt, self._slot, self._length = self._prompt[parents], slot, length

    def _reserve(self, slots: int, time: int) -> None:
        """Room for so many contexts of so many own tokens; parents may stand above `slots`."""
        has_slots, has_time = self._room
        if slots <= has_slots and time <= has_time:
            return
        used = (min(len(self._slot), has_slots), int(self._length.max(initial=0)))
        if slots > has_slots:
            has_slots = max(slots, has_slots + has_slots // 4)
        if time > has_time:
            enough = self._max_new if time <= self._max_new else 2 * time
            has_time = min(enough, max(time, 2 * has_time, _FIRST_TOKENS))
        self._room = (has_slots, has_time)
        for layer in self._cache.shared:
            layer.reserve(*self._room, used)

    def _pass(self, rows: Rows, count: NDArray[np.int64], n_new: int) -> Pass:
        """Where the forward pass of the contexts `rows` reads and writes; `count` of their `n_new` tokens are real."""
        at = self._length[rows]
        length = int((at + count).max())
        even = bool((at + n_new == length).all())
        every = len(rows) == len(self._slot)
        step = Pass(len(rows), None if every else self._to(self._slot[rows]), length - n_new, length)
        if not (even and every):
            step.at = self._to(at)
        if not even or n_new > 1:
            beyond = self._to(np.arange(length) > (at[:, None] + np.arange(n_new))[..., None])
            step.mask = torch.zeros(beyond.shape, device=self._device).masked_fill_(beyond, -torch.inf)[:, None]
        prompt = self._prompt[rows]
        numbers = np.unique(prompt)
        step.parts = [(int(g), self._to(np.flatnonzero(prompt == g)) if len(numbers) > 1 else None) for g in numbers]
        return step

    def _to(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _batches(prompts: Sequence[tuple[int, ...]], device: Any) -> Iterator[tuple[list[int], Tensor]]:
    """Prompts of one length together, as far as they fit in one forward pass."""
    sizes = np.array([len(prompt) for prompt in prompts])
    for size in np.unique(sizes):
        members, most = np.flatnonzero(sizes == size), max(1, _PREFILL // int(size))
        for some in (members[i : i + most].tolist() for i in range(0, len(members), most)):
            yield some, torch.tensor([prompts[g] for g in some], device=device)
