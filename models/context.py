"""The histories of language model contexts as one tree a model and run, forwarded on demand.

A history is a prompt, or another history and one more token. Contexts with the same history stand on the same node,
so that it is forwarded once, and forking a context copies one reference.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import numpy as np

from feynkac.errors import ModelError
from feynkac.models.contexts import Contexts, open_contexts

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.models.lm import CausalLM

ROOM = 1024
"""Tokens by which contexts may grow before their store asks again what it needs: a program does not say."""


class Node:
    """One history. It is *resident* while its keys and values, and the logits of its next token, are there."""

    __slots__ = ("__weakref__", "bank", "depth", "logits", "parent", "prompt", "row", "serial", "slot", "token")

    def __init__(self, serial: int, parent: Node | None, token: int, prompt: tuple[int, ...]) -> None:
        self.serial, self.parent, self.token, self.prompt = serial, parent, token, prompt
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.bank: Bank | None = None
        self.slot = self.row = -1
        self.logits: Tensor | None = None

    def tokens(self, after: int = 0) -> list[int]:
        """The tokens behind the prompt, from number `after` on."""
        found, node = [], self
        while node.depth > after:
            found.append(node.token)
            assert node.parent is not None
            node = node.parent
        return found[::-1]


class Bank:
    """Resident nodes of prompts that were opened together: `members[i]` is context i of the store."""

    def __init__(self, contexts: Contexts, roots: Sequence[Node]) -> None:
        self.contexts, self.members = contexts, list[Node]()
        self._settle(roots, contexts.start(), range(len(roots)))

    def extend(self, kept: Collection[Node], grown: Iterable[Node]) -> None:
        """Make `grown` resident, each a child of a member, and let go of all other members than `kept`."""
        pairs = [(node.slot, -1, node) for node in self.members if node in kept]
        pairs += [(node.parent.slot, node.token, node) for node in grown if node.parent is not None]
        pairs.sort(key=lambda pair: pair[:2])
        parents, tokens = (np.array(column, np.int64) for column in zip(*[p[:2] for p in pairs], strict=True))
        logits = self.contexts.extend(parents, tokens)
        new = [i for i, (_, token, _) in enumerate(pairs) if token >= 0]
        for node in self.members:
            if node not in kept:
                node.bank = node.logits = None
            elif node.logits is not None and len(node.logits) > 1:
                node.logits, node.row = node.logits[node.row : node.row + 1].clone(), 0  # lets go of its whole batch
        self._settle([node for _, _, node in pairs], logits, new)

    def close(self) -> None:
        """Let go of everything."""
        for node in self.members:
            node.bank = node.logits = None
        self.members = []

    def _settle(self, members: Sequence[Node], logits: Tensor, new: Sequence[int]) -> None:
        self.members = list(members)
        for slot, node in enumerate(members):
            node.bank, node.slot = self, slot
        for row, slot in enumerate(new):
            members[slot].logits, members[slot].row = logits, row


class Histories:
    """All histories of one language model in one run."""

    def __init__(self, lm: CausalLM) -> None:
        self.lm, self.forwarded = lm, 0
        self._roots: dict[tuple[int, ...], Node] = {}
        # A node lives as long as a context or a record of a particle leads to it.
        self._children: WeakValueDictionary[tuple[int, int], Node] = WeakValueDictionary()
        self._serial = itertools.count()
        self._banks: list[Bank] = []
        self._window = getattr(lm.model.config, "max_position_embeddings", None)
        self._device = _one_device(lm.model)

    def root(self, prompt: tuple[int, ...]) -> Node:
        """The history that is `prompt`. Raises ModelError if it fills the model's window."""
        if prompt not in self._roots:
            if self._window is not None and len(prompt) >= self._window:
                raise ModelError(f"the prompt has {len(prompt)} tokens; the model's window holds {self._window}")
            self._roots[prompt] = Node(next(self._serial), None, -1, prompt)
        return self._roots[prompt]

    def child(self, node: Node, token: int) -> Node:
        """The history that is `node`, then `token`."""
        key = (node.serial, token)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = Node(next(self._serial), node, token, node.prompt)
        return found

    def logits(self, wanted: Sequence[Node], held: Collection[Node]) -> Tensor:
        """(U, V) float32 next-token logits of U distinct nodes, in one forward pass where each is one token on.

        `held`: all nodes on which some context stands; they stay resident, and are forwarded along where that takes
        one token each, for their logits are likely to be wanted next. Raises ModelError where the window is full.
        """
        if any(node.logits is None for node in wanted):
            self._forward(wanted, {*held, *wanted})
        return _gathered(wanted)

    def _forward(self, wanted: Sequence[Node], held: set[Node]) -> None:
        self._check(wanted)
        todo = set[Node]()
        for node in wanted:
            ancestor = node
            while ancestor.bank is None:
                todo.add(ancestor)
                if ancestor.parent is None:
                    break
                ancestor = ancestor.parent
        self._open({node for node in todo | held if node.parent is None and node.bank is None})
        todo = {node for node in todo if node.bank is None}
        todo |= {node for node in held if node.bank is None and node.parent is not None and node.parent.bank}
        while todo:
            ready = {node for node in todo if node.parent is not None and node.parent.bank is not None}
            for bank in list(self._banks):
                grown = [node for node in ready if node.parent is not None and node.parent.bank is bank]
                if grown:
                    bank.extend(held, grown)
            self.forwarded += len(ready)
            todo -= ready
        for bank in self._banks:
            if not any(node in held for node in bank.members):
                bank.close()
        self._banks = [bank for bank in self._banks if bank.members]

    def _open(self, roots: Iterable[Node]) -> None:
        """Forward prompts, in one store."""
        roots = sorted(roots, key=lambda node: node.serial)
        if roots:
            longest = max(len(root.prompt) for root in roots)
            room = ROOM if self._window is None else min(ROOM, self._window - longest)
            store = open_contexts(self.lm.model, [root.prompt for root in roots], room)
            self._banks.append(Bank(store, roots))
            self.forwarded += sum(len(root.prompt) for root in roots)

    def _check(self, wanted: Sequence[Node]) -> None:
        for node in wanted:
            if self._window is not None and len(node.prompt) + node.depth > self._window:
                raise ModelError(
                    f"a context of {len(node.prompt)} prompt tokens and {node.depth} more is longer than the model's "
                    f"window of {self._window}; bound the loop that extends it by len(context)"
                )
        if self.lm.model.get_input_embeddings().weight.device != self._device:
            raise ModelError(f"the model was moved away from {self._device} during the run; leave it on one device")


def _gathered(nodes: Sequence[Node]) -> Tensor:
    import torch

    first, rows = nodes[0].logits, [node.row for node in nodes]
    assert first is not None
    if all(node.logits is first for node in nodes):
        return first if rows == list(range(len(first))) else first[rows]
    return torch.stack([node.logits[node.row] for node in nodes if node.logits is not None])


def _one_device(model: object) -> object:
    """The device of a model that is on one; one that transformers spread out itself moves its own tensors."""
    devices = sorted({str(parameter.device) for parameter in model.parameters()})  # pyright: ignore[reportAttributeAccessIssue]
    if len(devices) > 1 and not hasattr(model, "hf_device_map"):
        raise ModelError(f"the model's parameters are on {' and '.join(devices)}; move it with lm.model.to(device)")
    return model.get_input_embeddings().weight.device  # pyright: ignore[reportAttributeAccessIssue]
