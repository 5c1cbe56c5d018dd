"""One key-value cache for all particles: each prompt once, and the tokens of each live context behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from feynkac.base.contract import Rows
from feynkac.models.language.caches.attention import select_attention
from feynkac.models.language.caches.forward import Last, select_rows
from feynkac.models.language.caches.opening import find_device
from feynkac.models.language.caches.plan import Layout, Plan, plan_step
from feynkac.models.language.editing.edits import NOTHING, Laid

if TYPE_CHECKING:
    from feynkac.models.language.caches.twin import Twins

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
        self.biases: dict[int, Tensor] = {}
        """(Hq, P) added to the scores of some prompts' keys, by the number of the prompt."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store the new tokens, (F, Hkv, Q, D); returns the rows' own tokens only, (F, Hkv, length, D)."""
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
        return own
    slots = torch.arange(step.rows, device=new.device) if step.slots is None else step.slots
    at = step.at[:, None] if isinstance(step.at, Tensor) else step.at
    store[slots[:, None], :, at + torch.arange(n_new, device=new.device)] = new.transpose(1, 2).to(store.dtype)
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
    """See `feynkac.models.language.protocols.Contexts`. All index arithmetic is in `caches.plan`."""

    def __init__(self, twins: Twins, prompts: Sequence[Sequence[int]], max_new: int, laid: Laid | None = None) -> None:
        self.forwarded = 0
        self.hidden: Tensor | None = None
        """(F, width) float32, what the output layer read for the logits given last; None where it cannot be told."""
        self._twins, self._laid = twins, laid or NOTHING
        self._device = find_device(twins.model)
        self._max_new = max_new
        kinds = [(tuple(prompt), self._laid.kind(g)) for g, prompt in enumerate(prompts)]
        distinct = list(dict.fromkeys(kinds))
        self._prompts = [prompt for prompt, _ in distinct]
        self._first = np.array([kinds.index(kind) for kind in distinct], np.int64)
        self._prompt_lengths = np.array([len(prompt) for prompt in self._prompts], np.int64)
        number = np.array([distinct.index(kind) for kind in kinds], np.int64)
        self._layout = Layout(np.arange(len(number)), np.zeros(len(number), np.int64), number)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(U,) tokens of each context, its prompt among them."""
        return self._prompt_lengths[self._layout.prompt] + self._layout.length

    @torch.inference_mode()
    def start(self) -> Tensor:
        """Forward each distinct prompt once; (G, V) float32 logits, and one context for each prompt given."""
        found: list[tuple[Tensor, Tensor | None]] = [(torch.empty(0), None)] * len(self._prompts)
        prefixes: list[list[Any]] = [[] for _ in self._prompts]
        for members, ids in _batches(self._prompts, self._device):
            last = self._prefill(ids, self._first[members])
            for row, g in enumerate(members):
                found[g] = last.logits[row], None if last.hidden is None else last.hidden[row]
                layers = last.cache.layers
                prefixes[g] = [tuple(x[row : row + 1].contiguous() for x in (y.keys, y.values)) for y in layers]
            self.forwarded += ids.numel()
        self._cache = SharedCache([list(layer) for layer in zip(*prefixes, strict=True)])
        for number, g in enumerate(self._first.tolist()):
            for layer, biases in self._laid.list_biases(g).items():
                bias = torch.stack([numbers for _, numbers in biases]).sum(0)
                self._cache.shared[layer].biases[number] = bias.to(self._device, torch.float32)
        self._room = (0, 0)
        given = [found[g] for g in self._layout.prompt]
        hidden = [row for _, row in given if row is not None]
        self.hidden = torch.stack(hidden) if len(hidden) == len(given) else None
        return torch.stack([logits for logits, _ in given])

    def _prefill(self, ids: Tensor, prompt: NDArray[np.int64]) -> Last:
        """What is left after the prompts `ids`, by the model's own attention, one stretch of the prompt a pass."""
        last = Last(torch.empty(0), None, DynamicCache())
        with self._twins.borrow() as twin:
            for start in range(0, ids.shape[1], _PREFILL):
                some = ids[:, start : start + _PREFILL]
                positions = torch.arange(start, start + some.shape[1], device=ids.device).expand_as(some)
                with self._laid.on(twin, prompt, positions):
                    last = twin.forward.last(some, last.cache, start)
        return last

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
        plan = plan_step(self._layout, self._prompt_lengths, parents, count, tokens.shape[1], every)
        self._make_room(plan)
        if len(plan.source):
            source, target = self._to_device(np.stack([plan.source, plan.target]))
            for layer in self._cache.shared:
                layer.copy(source, target, plan.copied)
        self._layout = plan.layout
        if not len(plan.rows):
            self.hidden = None
            return torch.empty(0, 0, device=self._device)
        self._cache.step = self._describe_pass(plan)
        self._cache.longest = int(self.lengths[plan.rows].max())
        self.forwarded += int(count.sum())
        return self._forward(plan, tokens)

    def _forward(self, plan: Plan, tokens: NDArray[np.int64]) -> Tensor:
        ids, positions = self._to_device(np.stack([tokens[plan.rows], plan.positions]))
        row, at = self._to_device(plan.picked)
        with (
            self._twins.borrow() as twin,
            select_attention(twin.configs),
            self._laid.on(twin, self._first[self._layout.prompt[plan.rows]], positions, plan.rows, biased=False),
            select_rows(twin.model, row, at) as selection,
        ):
            logits, _ = twin.forward.all(ids, self._cache, position_ids=positions, particles=self._cache)
            self.hidden = selection.hidden
            return selection.apply(logits)

    def _make_room(self, plan: Plan) -> None:
        has_slots, has_time = self._room
        slots, time = plan.room
        if slots <= has_slots and time <= has_time:
            return
        used = (min(plan.kept[0], has_slots), plan.kept[1])
        if slots > has_slots:
            has_slots = max(slots, has_slots + has_slots // 4)
        if time > has_time:
            enough = self._max_new if time <= self._max_new else 2 * time
            has_time = min(enough, max(time, 2 * has_time, _FIRST_TOKENS))
        self._room = (has_slots, has_time)
        for layer in self._cache.shared:
            layer.reserve(*self._room, used)

    def _describe_pass(self, plan: Plan) -> Pass:
        """The plan of the forward pass, on the device."""
        mask = None
        if plan.hidden is not None:
            hidden = self._to_device(plan.hidden)
            mask = torch.zeros(hidden.shape, device=self._device).masked_fill_(hidden, -torch.inf)[:, None]
        return Pass(
            rows=len(plan.rows),
            slots=None if plan.slots is None else self._to_device(plan.slots),
            at=plan.at if isinstance(plan.at, int) else self._to_device(plan.at),
            length=plan.length,
            mask=mask,
            parts=[(g, None if rows is None else self._to_device(rows)) for g, rows in plan.parts],
        )

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _batches(prompts: Sequence[tuple[int, ...]], device: Any) -> Iterator[tuple[list[int], Tensor]]:
    """Prompts of one length together, as far as they fit in one forward pass."""
    sizes = np.array([len(prompt) for prompt in prompts])
    for size in np.unique(sizes):
        members, most = np.flatnonzero(sizes == size), max(1, _PREFILL // int(size))
        for some in (members[i : i + most].tolist() for i in range(0, len(members), most)):
            yield some, torch.tensor([prompts[g] for g in some], device=device)
