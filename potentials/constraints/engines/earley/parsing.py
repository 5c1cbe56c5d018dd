"""The parser: sets of items, and what follows each of them.

An item is a state of some rule's automaton and a `Context`: where its rule was called, that is, the items to go on
with when it ends. Instead of Earley's positions in the text (Earley 1970) a context holds these items themselves, as
a graph-structured stack does (Tomita 1985), and equal ones are one object: so texts that leave the same to be done
are in one state, and regular parts of a grammar have finitely many states. Rules that may be empty are passed over
where they are called (Aycock and Horspool 2002); a call with which a rule ends leaves no trace (Leo 1991).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias
from weakref import WeakValueDictionary

import numpy as np

from feynkac.potentials.constraints.automata.alphabet import NEVER
from feynkac.potentials.constraints.automata.trie import Trie
from feynkac.potentials.constraints.engines.earley.network import Network
from feynkac.potentials.constraints.engines.earley.spelling import Spelling, find_places


class Context:
    """The items to go on with after a rule; of the text as a whole there are none."""

    __slots__ = ("__weakref__", "lets", "needs", "returns")

    def __init__(self, returns: frozenset[Item] = frozenset(), needs: int = 0, lets: int = 1) -> None:
        self.returns = returns
        self.needs = needs
        """The fewest bytes from the end of the rule to the end of a text."""
        self.lets = lets
        """The places within a token at which the rule may end, as bits (see `Spelling`)."""


Item: TypeAlias = tuple[int, Context]
Kernel: TypeAlias = frozenset[Item]
"""The items right behind a character; all others of a set follow from them."""


class Parser:
    """Sets of items of a network, for a vocabulary; states are numbered through. Not for several threads at once."""

    def __init__(self, network: Network, tokens: Trie) -> None:
        offsets, states = {}, 0
        for number, rule in network.rules.items():
            offsets[number] = states
            states += len(rule.machine.moves)
        self._scans: list[list[tuple[int, int]]] = []
        self._calls: list[list[tuple[int, int, bool, int]]] = []
        self._final: list[bool] = []
        for number, rule in network.rules.items():
            here = offsets[number]
            for state, row in enumerate(rule.machine.moves):
                moves = [(label, after) for label, afters in row.items() for after in afters]
                self._scans.append([(label, here + after) for label, after in moves if label >= 0])
                self._calls.append(
                    [(~c, offsets[~c], network.rules[~c].nullable, here + after) for c, after in moves if c < 0]
                )
                self._final.append(state in rule.machine.final)
        self._done = [end and not s and not c for end, s, c in zip(self._final, self._scans, self._calls, strict=True)]
        self.spells = network.alphabet.count_bytes(np.ones(256, dtype=np.bool_))[0].tolist()
        """(C,) the fewest bytes of a character of each class."""
        self._needs = self._count_needs()
        self.spelling = self._make_spelling(network, tokens)
        self._known: WeakValueDictionary[frozenset[Item], Context] = WeakValueDictionary()
        self._whole = Context()
        self.start: Kernel = frozenset({(offsets[0], self._whole)})

    def count_needed(self, kernel: Kernel) -> int:
        """The fewest bytes to acceptance; 0 where the text is accepted as it stands."""
        needs = self._needs
        return min([needs[state] + context.needs for state, context in kernel])

    def lives(self, kernel: Kernel, place: int = 0) -> bool:
        """Whether some sequence of tokens leads to acceptance, from a place within a token."""
        if self.spelling is None:
            return True
        ends = self.spelling.ends
        return any(ends[state][place] & context.lets for state, context in kernel)

    def list_moves(self, kernel: Kernel) -> dict[int, Kernel]:
        """The sets of items after a character of each class."""
        items, called = self._close(kernel)
        settled = self._settle(called) if called else {}
        scans, after = self._scans, dict[int, list[Item]]()
        for state, context in items:
            context = settled.get(context, context)
            for label, target in scans[state]:
                after.setdefault(label, []).append((target, context))
        return {label: frozenset(targets) for label, targets in after.items()}

    def _close(self, kernel: Kernel) -> tuple[Iterable[Item], dict[Context, set[Item]]]:
        """All items of a set, and the contexts of the rules that are called there, each with what follows the rule."""
        items, todo = set(kernel), list(kernel)
        inner: dict[int, Context] = {}
        called: dict[Context, set[Item]] = {}
        while todo:
            item = state, context = todo.pop()
            found: list[Item] = []
            if self._final[state] and context not in called:
                found.extend(context.returns)
            for rule, start, nullable, after in self._calls[state]:
                if rule not in inner:
                    inner[rule] = Context()
                    called[inner[rule]] = set()
                    found.append((start, inner[rule]))
                called[inner[rule]].add((after, context))
                if nullable:
                    found.append((after, context))
            for item in found:
                if item not in items:
                    items.add(item)
                    todo.append(item)
        return items, called

    def _settle(self, called: dict[Context, set[Item]]) -> dict[Context, Context]:
        """The context that stands for each new one: one known already, if it is followed by the same."""
        settled: dict[Context, Context] = {}
        waiting = dict(called)
        while waiting:
            ready = [context for context, follow in waiting.items() if not any(outer in waiting for _, outer in follow)]
            if not ready:  # they follow themselves, by recursion on the left through several rules
                self._tie(waiting, settled)
                break
            for context in ready:
                settled[context] = self._find_context(waiting.pop(context), settled)
        return settled

    def _find_context(self, follow: set[Item], settled: dict[Context, Context]) -> Context:
        returns: set[Item] = set()
        for state, outer in follow:
            outer = settled.get(outer, outer)
            if self._done[state] and outer is not self._whole:
                returns |= outer.returns
            else:
                returns.add((state, outer))
        key = frozenset(returns)
        context = self._known.get(key)
        if context is None:
            context = self._known[key] = Context(key, self.count_needed(key), self._find_lets(key))
        return context

    def _tie(self, waiting: dict[Context, set[Item]], settled: dict[Context, Context]) -> None:
        """Finish contexts that refer to each other: these are known by themselves only."""
        for context, follow in waiting.items():
            context.returns = frozenset((state, settled.get(outer, outer)) for state, outer in follow)
            context.needs, context.lets = NEVER, 0
        changed = True
        while changed:
            changed = False
            for context in waiting:
                found = self.count_needed(context.returns), self._find_lets(context.returns)
                changed |= found != (context.needs, context.lets)
                context.needs, context.lets = found

    def _find_lets(self, returns: frozenset[Item]) -> int:
        if self.spelling is None:
            return 1
        every = range(len(self.spelling.ends[0]))
        return sum(1 << place for place in every if self.lives(returns, place))

    def _make_spelling(self, network: Network, tokens: Trie) -> Spelling | None:
        """Which tokens spell what, where it is not enough to know the bytes."""
        used = sorted({label for scans in self._scans for label, _ in scans})
        places = find_places(tokens, network.alphabet, used, len(self._final))
        if places is None:
            return None
        return Spelling(network.alphabet.step, places, self._scans, self._calls, self._final)

    def _count_needs(self) -> list[int]:
        """For each state the fewest bytes to the end of its rule."""
        needs = [0 if final else NEVER for final in self._final]
        changed = True
        while changed:
            changed = False
            for state in reversed(range(len(needs))):
                ways = [self.spells[label] + needs[after] for label, after in self._scans[state]]
                ways += [needs[start] + needs[after] for _, start, _, after in self._calls[state]]
                least = min(ways, default=NEVER)
                if least < needs[state]:
                    needs[state], changed = least, True
        return needs
