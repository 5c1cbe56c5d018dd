"""The histories of a run while no program has opened them yet: as they were saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from feynkac.base.errors import ArgumentError
from feynkac.models.language.nodes import Node

if TYPE_CHECKING:
    from feynkac.models.language.language_model import LanguageModel
    from feynkac.programs.runtime.opened import OpenedModels


class NodeTable:
    """Numbers nodes, each behind its parent: (its serial number, the number of its parent, token, prompt)."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, int, tuple[int, ...] | None]] = []
        self._numbers: dict[Node, int] = {}

    def number(self, node: Node) -> int:
        """The number of a node. Raises ArgumentError for one of an edited model."""
        path, here = [], node
        while here is not None and here not in self._numbers:
            path.append(here)
            here = here.parent
        for each in reversed(path):
            if each.variant is not None:
                raise ArgumentError("checkpoint= with a program on an edited model: its contexts are not saved")
            parent = -1 if each.parent is None else self._numbers[each.parent]
            self._numbers[each] = len(self.entries)
            self.entries.append((each.serial, parent, each.token, each.prompt if each.parent is None else None))
        return self._numbers[node]


class Shelf:
    """The histories of one model, which is known by what it says of itself."""

    def __init__(self, identity: Any, forwarded: int, roots: Sequence[Node], nodes: Sequence[Node], banks: Any) -> None:
        self.identity, self.forwarded, self.roots, self.nodes, self.banks = identity, forwarded, roots, nodes, banks

    def is_of(self, lm: LanguageModel) -> bool:
        """Whether they are those of `lm`."""
        return self.identity == lm.identify()


def shelve(models: OpenedModels, table: NodeTable) -> list[Any]:
    """The histories of the models of a run, as a tree; their nodes are numbered by `table`."""
    waiting = [
        _write(shelf.identity, shelf.forwarded, shelf.roots, [_number(bank, table) for bank in shelf.banks], table)
        for shelf in models.shelves
    ]
    opened = [
        _write(lm.identify(), histories.forwarded, histories.roots, histories.save(table.number), table)
        for lm, histories in models.list_histories()
    ]
    return waiting + opened


def _write(identity: Any, forwarded: int, roots: Sequence[Node], banks: Sequence[Any], table: NodeTable) -> Any:
    numbers = [table.number(root) for root in roots]
    return {"identity": identity, "forwarded": forwarded, "roots": numbers, "banks": banks}


def _number(bank: Any, table: NodeTable) -> Any:
    return {**bank, "members": [table.number(node) for node in bank["members"]]}


def take_down(models: OpenedModels, saved: Sequence[Any], entries: Sequence[Any]) -> list[Node]:
    """The nodes of histories that were saved, which wait in `models` for the programs that open them."""
    nodes: list[Node] = []
    home: list[int] = []
    firsts = {number: h for h, each in enumerate(saved) for number in each["roots"]}
    for i, (serial, parent, token, prompt) in enumerate(entries):
        before = None if parent < 0 else nodes[parent]
        nodes.append(Node(serial, before, token, tuple(prompt) if before is None else before.prompt, None))
        home.append(firsts[i] if parent < 0 else home[parent])
    for h, each in enumerate(saved):
        mine = [node for node, where in zip(nodes, home, strict=True) if where == h]
        banks = [{**bank, "members": [nodes[i] for i in bank["members"]]} for bank in each["banks"]]
        roots = [nodes[i] for i in each["roots"]]
        models.shelves.append(Shelf(each["identity"], each["forwarded"], roots, mine, banks))
    return nodes
