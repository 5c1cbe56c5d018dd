"""One key-value cache for all particles: each prompt once, and the tokens of each live context behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from feynkac.models.attention import attention_configs, shared_attention_in
from feynkac.models.forward import Forward
from feynkac.smc.protocols import Rows

_FIRST_TOKENS = 32
"""Room made for each context's own tokens at first; it doubles when it is full."""
_PREFILL = 4096
"""Prompt tokens in one forward pass: bounds the memory of activations."""


@dataclass
class Pass:
    """Where one forward pass of F rows reads and writes, the same in all layers.

    `slots`: (F,) the slot of each row, or None: row r stands in slot r. `at`: the time index of the new token, for all
    rows or (F,). `length`: own tokens of the longest row, the new one included. `mask`: None or (F, 1, 1, length),
    0 or -inf. `parts`: each prompt in use, by number, with its rows; the rows of a single one are not listed.
    """

    rows: int = 0
    slots: Tensor | None = None
    at: int | Tensor = 0
    length: int = 0
    mask: Tensor | None = None
    parts: list[tuple[int, Tensor | None]] = field(default_factory=list)


class SharedLayer(CacheLayerMixin):
    """One layer: `prefixes` (1, Hkv, P, D) of each prompt; `keys`, `values` (slots, Hkv, time, D) of the contexts."""

    is_sliding = False
    keys: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]
    values: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, cache: SharedCache, prefixes: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.cache, self.prefixes, self.is_initialized = cache, prefixes, True
        self.keys, self.values = (x.new_empty(0, x.shape[1], 0, x.shape[3]) for x in prefixes[0])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store one new token a row, (F, Hkv, 1, D); returns the rows' own tokens only, (F, Hkv, length, D)."""
        self.cache.current = self
        step = self.cache.step
        return _write(self.keys, key_states, step), _write(self.values, value_states, step)

    def reserve(self, slots: int, time: int, used: tuple[int, int]) -> None:
        """Make room; of the first `used` slots and times the content is kept."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(slots, old.shape[1], time, old.shape[3])
            new[: used[0], :, : used[1]] = old[: used[0], :, : used[1]]
            setattr(self, name, new)

    def copy(self, source: Tensor, target: Tensor, length: int) -> None:
        """Copy `length` own tokens from slots to slots, which have none in common."""
        for store in (self.keys[:, :, :length], self.values[:, :, :length]):
            store.index_copy_(0, target, store.index_select(0, source))

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def get_seq_length(self) -> int:
        return self.cache.longest

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.longest + query_length, 0

    def get_max_length(self) -> int:
        return -1


def _write(store: Tensor, new: Tensor, step: Pass) -> Tensor:
    if step.slots is None and isinstance(step.at, int):
        own = store[: step.rows, :, : step.length]
        own[:, :, step.at] = new[:, :, 0]
        return own
    slots = torch.arange(step.rows, device=new.device) if step.slots is None else step.slots
    store[slots, :, step.at] = new[:, :, 0]
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
            logits, cache = self._forward(ids[:, start : start + _PREFILL], cache)
        return logits, cache.layers

    @torch.inference_mode()
    def extend(self, parents: Rows, tokens: NDArray[np.int64]) -> Tensor:
        """See `Contexts.extend`; one forward pass."""
        self._place(parents)
        extended = np.flatnonzero(tokens >= 0)
        if not len(extended):
            return torch.empty(0, 0, device=self._device)
        if len(extended) == len(tokens):
            extended = np.argsort(self._slot)  # all rows in the order of their slots, so that nothing is gathered
        self._length[extended] += 1
        rows = np.stack([tokens[extended], self.lengths[extended] - 1, np.argsort(extended)])
        ids, positions, order = self._to(rows)
        self._cache.step = self._pass(extended)
        self._cache.longest = int(self.lengths[extended].max())
        with shared_attention_in(self._configs), _reordered(self._model, order) as reorder:
            logits, _ = self._forward(ids[:, None], self._cache, position_ids=positions[:, None], particles=self._cache)
        self.forwarded += len(extended)
        return reorder(logits)

    def _place(self, parents: Rows) -> None:
        """Give each new context a slot below their number, and its parent's own tokens in it."""
        n, source, length = len(parents), self._slot[parents], self._length[parents]
        heir = np.zeros(n, np.bool_)  # one child of each parent stays where the parent was, if that is below n
        heir[np.unique(source, return_index=True)[1]] = True
        heir &= source < n
        free = np.ones(n, np.bool_)
        free[source[heir]] = False
        slot = source.copy()
        slot[~heir] = np.flatnonzero(free)
        self._reserve(n, int(length.max(initial=0)) + 1)
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
            has_slots = max(slots, has_slots + has_slots // 2)
        while has_time < time:
            has_time = max(2 * has_time, min(_FIRST_TOKENS, self._max_new))
            has_time = max(time, min(has_time, self._max_new))
        self._room = (has_slots, has_time)
        for layer in self._cache.shared:
            layer.reserve(*self._room, used)

    def _pass(self, rows: NDArray[np.int64]) -> Pass:
        """Where the forward pass of the contexts `rows` reads and writes."""
        length = self._length[rows]
        longest, n = int(length.max()), len(rows)
        even = bool((length == longest).all())
        every = n == len(self._slot)
        step = Pass(n, None if every else self._to(self._slot[rows]), longest - 1, longest)
        if not (even and every):
            step.at = self._to(length - 1)
        if not even:
            beyond = self._to(np.arange(longest) >= length[:, None])
            step.mask = torch.zeros(beyond.shape, device=self._device).masked_fill_(beyond, -torch.inf)[:, None, None]
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


@contextmanager
def _reordered(model: Any, order: Tensor) -> Iterator[Any]:
    """Put rows into `order` before they become logits: what goes into the output layer is some 100 times smaller."""
    done = False

    def select(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal done
        if done or not args or args[0].shape[0] != len(order):
            return None
        done = True
        return (args[0].index_select(0, order), *args[1:])

    head = model.get_output_embeddings()
    handle = None if head is None else head.register_forward_pre_hook(select)
    try:
        yield lambda logits: logits if done else logits.index_select(0, order)
    finally:
        if handle is not None:
            handle.remove()
