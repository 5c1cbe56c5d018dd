"""One history as a node of a tree, and the stores of contexts in which nodes are resident."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from feynkac.models.language.protocols import Contexts, require_saving

if TYPE_CHECKING:
    from torch import Tensor


class Node:
    """One history. It is *resident* while its keys and values, and the logits of its next token, are there."""

    __slots__ = (
        "__weakref__",
        "bank",
        "depth",
        "logits",
        "parent",
        "prompt",
        "row",
        "serial",
        "slot",
        "token",
        "variant",
    )

    def __init__(self, serial: int, parent: Node | None, token: int, prompt: tuple[int, ...], variant: Any) -> None:
        self.serial, self.variant = serial, variant
        self.parent = parent
        self.token = token
        self.prompt = prompt
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


Where: TypeAlias = "dict[Node, tuple[Tensor, int]]"
"""The logits of nodes: a tensor, and the row in it."""


class Bank:
    """Resident nodes of prompts that were opened together: `members[i]` is context i of the store."""

    def __init__(self, contexts: Contexts, prompts: Sequence[tuple[int, ...]], room: int) -> None:
        """`prompts`, and `room` behind them, are what the contexts were opened for."""
        self.contexts, self.prompts, self.room = contexts, prompts, room
        self.members: list[Node] = []

    def start(self, roots: Sequence[Node]) -> None:
        """Forward the prompts, which are the histories `roots`."""
        logits = self.contexts.start()
        self._settle(roots, {root: (logits, row) for row, root in enumerate(roots)})

    def save(self, number: Callable[[Node], int]) -> dict[str, Any]:
        """All of it, with `number` for its nodes. Raises ArgumentError for contexts that cannot be written."""
        contexts = require_saving(self.contexts).save()
        logits = [None if node.logits is None else node.logits[node.row] for node in self.members]
        members = [number(node) for node in self.members]
        return {"prompts": self.prompts, "room": self.room, "contexts": contexts, "members": members, "logits": logits}

    def load(self, saved: dict[str, Any], device: Any) -> None:
        """Take up what `save` gave, with the nodes themselves as members."""
        require_saving(self.contexts).load(saved["contexts"])
        self._settle(saved["members"], {})
        for node, logits in zip(self.members, saved["logits"], strict=True):
            node.logits, node.row = (None if logits is None else logits.to(device)[None]), 0

    def extend(self, kept: Collection[Node], chains: Sequence[Sequence[Node]]) -> Where:
        """Forward `chains` of nodes, each behind a member, in one pass, and let go of all other members than `kept`.

        Returns the logits of all nodes of the chains. The last one of each becomes resident.
        """
        pairs = [(node.slot, (), [node]) for node in self.members if node in kept]
        pairs += [(before(chain[0]).slot, tuple(node.token for node in chain), chain) for chain in chains]
        pairs.sort(key=lambda pair: pair[:2])
        slots, tokens = np.array([slot for slot, _, _ in pairs], np.int64), [some for _, some, _ in pairs]
        if all(len(chain) == 1 for chain in chains):
            logits = self.contexts.extend(slots, np.array([some[0] if some else -1 for some in tokens], np.int64))
        else:
            logits = self.contexts.append(slots, tokens, every=True)
        for node in self.members:
            if node not in kept:
                node.bank = node.logits = None
            elif node.logits is not None and len(node.logits) > 1:
                node.logits, node.row = node.logits[node.row : node.row + 1].clone(), 0  # lets go of its whole batch
        forwarded = (node for _, some, chain in pairs if some for node in chain)
        found = {node: (logits, row) for row, node in enumerate(forwarded)}
        self._settle([chain[-1] for _, _, chain in pairs], found)
        return found

    def close(self) -> None:
        """Let go of everything."""
        for node in self.members:
            node.bank = node.logits = None
        self.members = []

    def _settle(self, members: Sequence[Node], found: Where) -> None:
        self.members = list(members)
        for slot, node in enumerate(members):
            node.bank, node.slot = self, slot
            if node in found:
                node.logits, node.row = found[node]


def before(node: Node) -> Node:
    """The parent of a node that is no root."""
    assert node.parent is not None
    return node.parent
