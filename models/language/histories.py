"""The histories of language model contexts as one tree a model and run, forwarded on demand.

A history is a prompt, or another history and one more token. Contexts with the same history stand on the same node,
so that it is forwarded once, and forking a context copies one reference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from feynkac.base.errors import ModelError
from feynkac.models.language.nodes import Bank, Node, Where, before
from feynkac.models.language.prompts.prompt import Prompt
from feynkac.models.language.protocols import list_strains

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.models.language.language_model import LanguageModel

ROOM = 1024
"""Tokens by which contexts may grow before their store asks again what it needs: a program does not say."""
PASS = 512
"""Tokens that one forward pass takes where contexts grow by several each: their logits are all in memory at once."""


class Histories:
    """All histories of one language model in one run, and of those that share a batch with it."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self.forwarded = 0
        self.strains: dict[str, None] = {}
        """What contexts have said of memory that ran out."""
        self._roots: dict[tuple[Any, tuple[int, ...]], Node] = {}
        # A node lives as long as a context or a record of a particle leads to it.
        self._children: WeakValueDictionary[tuple[int, int], Node] = WeakValueDictionary()
        self._banks: list[Bank] = []
        self._next_serial = 0
        self._window = lm.window
        self._device = lm.device

    def root(self, prompt: tuple[int, ...], variant: Any = None) -> Node:
        """The history that is `prompt`, of a model of the batch. Raises ModelError if it fills the model's window."""
        if (variant, prompt) not in self._roots:
            if self._window is not None and len(prompt) >= self._window:
                raise ModelError(f"the prompt has {len(prompt)} tokens; the model's window holds {self._window}")
            self._roots[variant, prompt] = Node(self._count(), None, -1, prompt, variant)
        return self._roots[variant, prompt]

    def child(self, node: Node, token: int) -> Node:
        """The history that is `node`, then `token`."""
        key = (node.serial, token)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = Node(self._count(), node, token, node.prompt, node.variant)
        return found

    def _count(self) -> int:
        self._next_serial += 1
        return self._next_serial - 1

    @property
    def roots(self) -> list[Node]:
        """The prompts, in the order in which they were met."""
        return list(self._roots.values())

    def save(self, number: Callable[[Node], int]) -> list[Any]:
        """What is resident, with `number` for its nodes (see `Bank.save`)."""
        return [bank.save(number) for bank in self._banks]

    def adopt(
        self, roots: Sequence[Node], nodes: Sequence[Node], banks: Sequence[dict[str, Any]], forwarded: int
    ) -> None:
        """Take up histories that were saved: their `roots`, all their `nodes`, and what was resident."""
        self.forwarded = forwarded
        self._roots = {(node.variant, node.prompt): node for node in roots}
        self._next_serial = 1 + max((node.serial for node in nodes), default=-1)
        for node in nodes:
            if node.parent is not None:
                self._children[node.parent.serial, node.token] = node
        for saved in banks:
            bank = self._make_bank([(tuple(prompt), None) for prompt in saved["prompts"]], saved["room"])
            bank.load(saved, self._device)

    def _make_bank(self, prompts: Sequence[tuple[tuple[int, ...], Any]], room: int) -> Bank:
        """A new store for `prompts`, each with the variant of its model."""
        store = self.lm.open_prompts([Prompt(prompt, room, variant=variant) for prompt, variant in prompts], room)
        self._banks.append(Bank(store, [prompt for prompt, _ in prompts], room))
        return self._banks[-1]

    def logits(self, wanted: Sequence[Node], held: Collection[Node]) -> Tensor:
        """(U, V) float32 next-token logits of U distinct nodes, whose steps of several tokens are forwarded as one.

        `held`: all nodes on which some context stands; they stay resident, and are forwarded along where that takes
        one token each, for their logits are likely to be wanted next. Raises ModelError where the window is full.
        """
        resident = all(node.logits is not None for node in wanted)
        where = _find_resident(wanted) if resident else self._forward(wanted, set(held))
        return _gather([where[node] for node in wanted])

    def _forward(self, wanted: Sequence[Node], held: set[Node]) -> Where:
        """Forward what is missing of `wanted`, and what of `held` takes one token more; all of `wanted` is in it."""
        self._check(wanted)
        known = {*wanted}
        paths = [_list_missing(node) for node in (*wanted, *(node for node in held if self._near(node, known)))]
        self._open({path[0] for path in paths if path and path[0].parent is None})
        where = _find_resident(wanted)  # now, for the passes may let go of them
        chains = _keep_ends([[node for node in path if node.bank is None] for path in paths], held)
        while chains:
            size = max(1, PASS // len(chains))
            now = list({part[-1]: part for part in (chain[:size] for chain in chains)}.values())
            chains = [chain[size:] for chain in chains if len(chain) > size]
            for bank in self._banks:
                where |= self._extend(bank, [chain for chain in now if before(chain[0]).bank is bank], held)
        for bank in self._banks:
            if not any(node in held for node in bank.members):
                bank.close()
        self._banks = [bank for bank in self._banks if bank.members]
        return where

    def _near(self, node: Node, wanted: Collection[Node]) -> bool:
        """Whether `node` can be forwarded at little cost along with `wanted`."""
        near = node.parent is None or node.parent.bank is not None or node.parent in wanted
        return node.bank is None and near and self._fits(node)

    def _extend(self, bank: Bank, chains: Sequence[Sequence[Node]], held: set[Node]) -> Where:
        """One forward pass for single tokens, and one for longer chains, so that nothing is padded to much longer."""
        single = [chain for chain in chains if len(chain) == 1]
        longer = [chain for chain in chains if len(chain) > 1]
        where: Where = {}
        taken = bank.contexts.forwarded
        if longer:
            where |= bank.extend(held | {before(chain[0]) for chain in single}, longer)
        if single:
            where |= bank.extend(held | {chain[-1] for chain in longer}, single)
        self.forwarded += bank.contexts.forwarded - taken
        self.strains |= dict.fromkeys(list_strains(bank.contexts))
        return where

    def _open(self, roots: Iterable[Node]) -> None:
        """Forward prompts, in one store."""
        roots = sorted(roots, key=lambda node: node.serial)
        if roots:
            longest = max(len(root.prompt) for root in roots)
            room = ROOM if self._window is None else min(ROOM, self._window - longest)
            bank = self._make_bank([(root.prompt, root.variant) for root in roots], room)
            bank.start(roots)
            self.forwarded += bank.contexts.forwarded
            self.strains |= dict.fromkeys(list_strains(bank.contexts))

    def _fits(self, node: Node) -> bool:
        return self._window is None or len(node.prompt) + node.depth <= self._window

    def _check(self, wanted: Sequence[Node]) -> None:
        for node in wanted:
            if not self._fits(node):
                raise ModelError(
                    f"a context of {len(node.prompt)} prompt tokens and {node.depth} more is longer than the model's "
                    f"window of {self._window}; bound the loop that extends it by len(context)"
                )
        if self.lm.device != self._device:
            raise ModelError(f"the model was moved away from {self._device} during the run; leave it on one device")


def _list_missing(node: Node) -> list[Node]:
    """The nodes to forward before `node` is resident, in order; its root among them if that is not resident either."""
    path, here = [], node
    while here is not None and here.bank is None:
        path.append(here)
        here = here.parent
    return path[::-1]


def _keep_ends(chains: Iterable[Sequence[Node]], held: Collection[Node]) -> list[Sequence[Node]]:
    """The chains that lead somewhere: not those that another one passes through, unless a context stands there."""
    chains = [chain for chain in chains if chain]
    inner = {node for chain in chains for node in chain[:-1]}
    ends = {chain[-1]: chain for chain in chains if chain[-1] in held or chain[-1] not in inner}
    return list(ends.values())


def _find_resident(nodes: Iterable[Node]) -> Where:
    return {node: (node.logits, node.row) for node in nodes if node.logits is not None}


def _gather(places: Sequence[tuple[Tensor, int]]) -> Tensor:
    import torch

    first, rows = places[0][0], [row for _, row in places]
    if all(logits is first for logits, _ in places):
        return first if rows == list(range(len(first))) else first[rows]
    return torch.stack([logits[row] for logits, row in places])
