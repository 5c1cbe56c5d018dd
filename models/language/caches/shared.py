"""Contexts of all particles over one cache: which tokens each has, where they stand, and what is forwarded next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feynkac.base.contract import Rows
from feynkac.base.errors import ModelError
from feynkac.models.language.caches.attention import select_attention
from feynkac.models.language.caches.devices import reads_pool
from feynkac.models.language.caches.forward import select_rows
from feynkac.models.language.caches.opening import check_rope, find_attention_window, find_device, find_rope_border
from feynkac.models.language.caches.parts import Parts
from feynkac.models.language.caches.plan import Layout, Plan, plan_step
from feynkac.models.language.caches.prefill import Layers, Prefill
from feynkac.models.language.caches.promotion import EVERY, count_shared, is_worth_it, write_tokens
from feynkac.models.language.caches.store import Pass, SharedCache
from feynkac.models.language.editing.edits import NOTHING, Laid

if TYPE_CHECKING:
    from feynkac.models.language.caches.twin import Twins

_FIRST_TOKENS = 32
"""Room made for each context's own tokens at first; it doubles when it is full."""


class SharedContexts:
    """See `feynkac.models.language.protocols.Contexts`. All index arithmetic is in `caches.plan`."""

    def __init__(self, twins: Twins, prompts: Sequence[Sequence[int]], max_new: int, laid: Laid | None = None) -> None:
        self.forwarded = 0
        self.spent = np.zeros(len(prompts), np.int64)
        """(C,) tokens forwarded for each context by the last call."""
        self.hidden: Tensor | None = None
        """(F, width) float32, what the output layer read for the logits given last; None where it cannot be told."""
        self._twins, self._laid = twins, laid or NOTHING
        self._device = find_device(twins.model)
        self._reach, self._border = find_attention_window(twins.model), find_rope_border(twins.model)
        self._max_new = max_new
        self._parts = Parts()
        kinds = [(tuple(prompt), self._laid.kind(g)) for g, prompt in enumerate(prompts)]
        distinct = list(dict.fromkeys(kinds))
        self._prompts = [prompt for prompt, _ in distinct]
        self._first = np.array([kinds.index(kind) for kind in distinct], np.int64)
        self._prompt_lengths = np.array([len(prompt) for prompt in self._prompts], np.int64)
        number = np.array([distinct.index(kind) for kind in kinds], np.int64)
        self._layout = Layout(np.arange(len(number)), np.zeros(len(number), np.int64), number)
        self._own = np.zeros((len(number), 0), np.int32)
        """(U, time) the tokens of each context behind its prompt."""
        self._passes = 0

    @property
    def strained(self) -> str | None:
        """See `feynkac.models.language.protocols.Strains`."""
        return self._parts.told

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(U,) tokens of each context, its prompt among them."""
        return self._prompt_lengths[self._layout.prompt] + self._layout.length

    @torch.inference_mode()
    def start(self) -> Tensor:
        """Forward each distinct prompt once; (G, V) float32 logits, and one context for each prompt given."""
        left = Prefill(self._twins, self._laid, self._prompts, self._first, self._parts).run()
        self._begin([prefix.layers for prefix in left])
        owner = np.arange(len(self._first)) == self._layout.prompt[:, None]
        owner &= np.arange(len(owner))[:, None] == self._first  # of prompts given twice the first pays
        self.spent = owner @ np.array([prefix.taken for prefix in left], np.int64)
        self.forwarded += sum(prefix.taken for prefix in left)
        hidden = [row for number in self._layout.prompt if (row := left[number].hidden) is not None]
        self.hidden = torch.stack(hidden) if len(hidden) == len(self._layout.prompt) else None
        return torch.stack([left[number].logits for number in self._layout.prompt])

    def _begin(self, prompts: Sequence[Layers]) -> None:
        """Make the cache of distinct prompts, behind which nothing stands yet."""
        self._cache = SharedCache([list(layer) for layer in zip(*prompts, strict=True)])
        for number, g in enumerate(self._first.tolist()):
            for layer, biases in self._laid.list_biases(g).items():
                bias = torch.stack([numbers for _, numbers in biases]).sum(0).to(self._device, torch.float32)
                behind = prompts[number][layer][0].shape[2] - bias.shape[1]  # tokens that were moved behind the prompt
                self._cache.shared[layer].biases[number] = torch.nn.functional.pad(bias, (0, max(behind, 0)))
        self._room = (0, 0)
        self._reads_pool = reads_pool([store for layer in self._cache.shared for store in layer.own])

    def save(self) -> dict[str, Any]:
        """See `feynkac.base.capabilities.SavesContexts`: keys and values as they are, as far as they are in use."""
        n, length = len(self._layout.slot), int(self._layout.length.max(initial=0))
        layers = self._cache.shared
        return {
            "prompts": [[list(layer.prefixes[g]) for layer in layers] for g in range(len(self._prompts))],
            "own": [[store[:n, :, :length] for store in layer.own] for layer in layers],
            "layout": [self._layout.slot, self._layout.length, self._layout.prompt],
            "prompt_lengths": self._prompt_lengths,
            "tokens": self._own,
            "room": list(self._room),
            "passes": self._passes,
            "fits": dict(self._parts.room),
            "told": self._parts.told,
            "forwarded": self.forwarded,
        }

    @torch.inference_mode()
    def load(self, saved: dict[str, Any]) -> None:
        """Take up what `save` gave."""
        prompts = [[(k.to(self._device), v.to(self._device)) for k, v in layers] for layers in saved["prompts"]]
        self._begin(prompts)
        self._layout = Layout(*saved["layout"])
        self._prompt_lengths, self._own, self._passes = saved["prompt_lengths"], saved["tokens"], saved["passes"]
        self._parts.room, self._parts.told, self.forwarded = saved["fits"], saved["told"], saved["forwarded"]
        self.spent = np.zeros(len(self._layout.slot), np.int64)
        self._room = (saved["room"][0], saved["room"][1])
        for layer, stores in zip(self._cache.shared, saved["own"], strict=True):
            layer.reserve(*self._room, (0, 0))
            for own, given in zip(layer.own, stores, strict=True):
                own[: given.shape[0], :, : given.shape[2]] = given.to(self._device)

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
        before = self._layout.length[parents]
        self._check_reach(parents, count)
        plan = plan_step(self._layout, self._prompt_lengths, parents, count, tokens.shape[1], every)
        self._make_room(plan)
        if len(plan.source):
            source, target = self._to_device(np.stack([plan.source, plan.target]))
            for layer in self._cache.shared:
                layer.copy(source, target, plan.copied)
        self._layout = plan.layout
        self._own = write_tokens(self._own[parents], before, tokens, count)
        self.spent = count
        if not len(plan.rows):
            self.hidden = None
            return torch.empty(0, 0, device=self._device)
        self._cache.longest = int(self.lengths[plan.rows].max())
        self.forwarded += int(count.sum())
        logits, self.hidden = self._parts.forward(plan, lambda part: self._forward(part, tokens))
        self._passes += 1
        if self._passes % EVERY == 0:
            self._tidy()
        return logits

    def _check_reach(self, parents: Rows, count: NDArray[np.int64]) -> None:
        """Raise ModelError where contexts grow past what they were opened for, and past what the model reads alike."""
        longest = int((self.lengths[parents] + count)[count > 0].max(initial=0))
        if longest > self._reach:
            raise ModelError(
                f"a text of {longest} tokens is longer than the attention window of {self._reach:g} tokens, which the "
                "shared cache has not; say that it may become so long where its contexts are opened"
            )
        if longest > self._border:
            check_rope(self._twins.model, longest)

    def _forward(self, plan: Plan, tokens: NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        """Logits and hidden states of one pass."""
        self._cache.step = self._describe_pass(plan)
        ids, positions = self._to_device(np.stack([tokens[plan.rows], plan.positions]))
        row, at = self._to_device(plan.picked)
        with (
            self._twins.borrow() as twin,
            select_attention(twin.configs),
            self._laid.on(twin, self._first[self._layout.prompt[plan.rows]], positions, plan.rows, biased=False),
            select_rows(twin.model, row, at) as selection,
        ):
            logits, _ = twin.forward.all(ids, self._cache, position_ids=positions, particles=self._cache)
            return selection.apply(logits), selection.hidden

    def _tidy(self) -> None:
        """Move what all contexts of each prompt begin with behind the prompt, and give back room of those that died."""
        layout, n = self._layout, len(self._layout.slot)
        used = np.unique(layout.prompt)
        for layer in self._cache.shared:
            layer.drop(used)
        shared = count_shared(self._own, layout)
        if is_worth_it(shared, layout, self._prompt_lengths[used]):
            firsts = {g: int(layout.slot[np.argmax(layout.prompt == g)]) for g in used.tolist()}
            for layer in self._cache.shared:
                layer.promote(shared, firsts, n, int(layout.length.max()))
            self._prompt_lengths[used] += shared
            self._layout = replace(layout, length=layout.length - shared)
            self._own = self._own[:, shared:]
        if self._room[0] > 4 * n:
            self._room = (2 * n, self._room[1])
            for layer in self._cache.shared:
                layer.reserve(*self._room, (n, int(self._layout.length.max())))

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
        mask = starts = None
        if self._reads_pool:
            at = np.full(len(plan.rows), plan.at) if isinstance(plan.at, int) else plan.at
            starts = self._to_device(at.astype(np.int32))
        elif plan.hidden is not None:
            hidden = self._to_device(plan.hidden)
            mask = torch.zeros(hidden.shape, device=self._device).masked_fill_(hidden, -torch.inf)[:, None]
        return Pass(
            rows=len(plan.rows),
            n_new=plan.positions.shape[1],
            slots=None if plan.slots is None else self._to_device(plan.slots),
            at=plan.at if isinstance(plan.at, int) else self._to_device(plan.at),
            length=plan.length,
            mask=mask,
            parts=[(g, None if rows is None else self._to_device(rows)) for g, rows in plan.parts],
            starts=starts,
        )

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)
