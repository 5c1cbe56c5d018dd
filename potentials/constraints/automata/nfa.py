"""Nondeterministic automata over characters, and their deterministic twins over classes of characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ConstraintError
from feynkac.potentials.constraints.automata.alphabet import Alphabet, build_alphabet
from feynkac.potentials.constraints.automata.anchors import (
    ALL,
    END,
    OTHER,
    START,
    Anchor,
    allow_next,
    list_kinds,
    pass_promise,
)
from feynkac.potentials.constraints.automata.characters import Ranges

MAX_STATES = 100_000
MAX_ENTRIES = 20_000_000  # of a transition table: 80 MB
MAX_WORK = 2_000_000  # moves looked at: a second, or two on a slow machine


@dataclass
class Nfa:
    """States with moves on sets of characters, free moves, and moves that an anchor guards."""

    sets: list[Ranges] = field(default_factory=list)
    moves: list[list[tuple[int, int]]] = field(default_factory=list)
    """The moves of each state: pairs (index of a set, next state)."""
    free: list[list[int]] = field(default_factory=list)
    guarded: list[list[tuple[Anchor, int]]] = field(default_factory=list)
    anchors: set[Anchor] = field(default_factory=set)
    _index: dict[Ranges, int] = field(default_factory=dict)

    def add_state(self) -> int:
        """One more state."""
        if len(self.moves) >= MAX_STATES:
            raise TooLarge
        for table in (self.moves, self.free, self.guarded):
            table.append([])
        return len(self.moves) - 1

    def add_move(self, state: int, chars: Ranges) -> int:
        """A new state that `state` goes to on any of `chars`."""
        after = self.add_state()
        index = self._index.setdefault(chars, len(self.sets))
        if index == len(self.sets):
            self.sets.append(chars)
        self.moves[state].append((index, after))
        return after

    def add_guarded(self, state: int, anchor: Anchor) -> int:
        """A new state that `state` goes to where `anchor` holds."""
        after = self.add_state()
        self.guarded[state].append((anchor, after))
        self.anchors.add(anchor)
        return after


class TooLarge(Exception):
    """The automaton has more states than we are willing to hold."""


@dataclass(frozen=True)
class CharDfa:
    """Q states, of which 0 is the start, over the C classes of an alphabet; each state can still reach acceptance."""

    delta: NDArray[np.int32]
    """(Q, C) next state, or -1."""
    accept: NDArray[np.bool_]
    """(Q,)"""
    alphabet: Alphabet

    def group_alike(self, length: int) -> NDArray[np.int64]:
        """(Q,) a number for each state, equal for states from which the same texts of up to `length` lead on."""
        same = np.zeros(len(self.delta), dtype=np.int64)
        for _ in range(length):
            finer = same
            for after in self.delta.T:
                pair = finer * (len(same) + 1) + np.where(after < 0, 0, same[after] + 1)
                finer = np.unique(pair, return_inverse=True)[1].reshape(-1)
            if finer.max() == same.max():
                break
            same = finer
        return same


def determinise(nfa: Nfa, start: int, end: int, name: str, work: int = MAX_WORK) -> CharDfa:
    """The automaton on sets of states. Raises ConstraintError if it accepts nothing; raises TooLarge.

    `work`: how many moves of the Nfa are looked at, at most.
    """
    letters, classes, kinds = _list_letters(nfa)
    subsets = _Subsets(nfa, end, [chars.tolist() for chars in classes], kinds, work)
    opening = subsets.close({start: ALL}, START)
    index, found = {opening: 0}, [opening]
    delta: list[NDArray[np.int32]] = []
    for members, _ in found:
        row = np.full(letters.n_classes, -1, dtype=np.int32)
        for letter, after in subsets.find_targets(members).items():
            subset = subsets.close(after, kinds[letter])
            if subset != NOTHING:
                row[letter] = index.setdefault(subset, len(found))
                if row[letter] == len(found):
                    found.append(subset)
        delta.append(row)
        if len(found) > MAX_STATES or len(found) * letters.n_classes > MAX_ENTRIES:
            raise TooLarge
    dfa = CharDfa(np.array(delta), np.array([accept for _, accept in found]), letters)
    # Of anchors some promise what never comes.
    useful = None if opening == NOTHING else trim(dfa) if nfa.anchors else dfa
    if useful is None:
        raise ConstraintError(f"{name} matches no text at all; loosen it")
    return useful


def _list_letters(nfa: Nfa) -> tuple[Alphabet, list[NDArray[np.int64]], list[int]]:
    """The alphabet of an automaton, the classes of each of its sets, and the kind of each class, for its anchors."""
    known = list_kinds(nfa.anchors)
    letters, classes = build_alphabet([*nfa.sets, *known.values()])
    kinds = np.full(letters.n_classes, OTHER)
    for kind, of_kind in zip(known, classes[len(nfa.sets) :], strict=True):
        kinds[of_kind] = kind
    return letters, classes[: len(nfa.sets)], kinds.tolist()


Subset: TypeAlias = tuple[frozenset[tuple[int, int]], bool]
"""States that can move, each with the kinds of what may come next; and whether the text is accepted as it stands."""
NOTHING: Subset = (frozenset(), False)


class _Subsets:
    """Sets of states of an Nfa. With each state goes what the anchors that led to it promise of the next character."""

    def __init__(self, nfa: Nfa, end: int, classes: list[list[int]], kinds: list[int], work: int) -> None:
        self._free, self._guarded, self._kinds, self._end = nfa.free, nfa.guarded, kinds, end
        self._moves = [[(classes[chars], after) for chars, after in out if classes[chars]] for out in nfa.moves]
        steps = [
            [*free, *(after for _, after in guarded), *(after for _, after in moves)]
            for free, guarded, moves in zip(nfa.free, nfa.guarded, self._moves, strict=True)
        ]
        useful = reach_backwards(steps, [end])
        self._usable = [0] * len(steps)  # the kinds of characters that each state can move on
        for state in useful:
            for letters, _ in self._moves[state]:
                for letter in letters:
                    self._usable[state] |= kinds[letter]
        self._work = work

    def close(self, states: dict[int, int], before: int) -> Subset:
        """What `states` lead to without a character, where one of kind `before` came last."""
        reached, todo = dict(states), list(states)
        while todo:
            state = todo.pop()
            promise = reached[state]
            self._spend(1 + len(self._free[state]))
            for after in self._free[state]:
                if promise & ~reached.get(after, 0):
                    reached[after] = reached.get(after, 0) | promise
                    todo.append(after)
            for anchor, after in self._guarded[state]:
                kept = promise & allow_next(anchor, before)
                if kept & ~reached.get(after, 0):
                    reached[after] = reached.get(after, 0) | kept
                    todo.append(after)
        usable = self._usable
        members = frozenset((state, kept & usable[state]) for state, kept in reached.items() if kept & usable[state])
        return members, bool(reached.get(self._end, 0) & END)

    def find_targets(self, members: Iterable[tuple[int, int]]) -> dict[int, dict[int, int]]:
        """For each letter the states that it leads to, with the kinds of what may come after it."""
        targets: dict[int, dict[int, int]] = {}
        for state, promise in members:
            for letters, after in self._moves[state]:
                self._spend(len(letters))
                for letter in letters:
                    if kept := pass_promise(promise, self._kinds[letter]):
                        reached = targets.setdefault(letter, {})
                        reached[after] = reached.get(after, 0) | kept
        return targets

    def _spend(self, work: int) -> None:
        self._work -= work
        if self._work < 0:
            raise TooLarge


def trim(dfa: CharDfa) -> CharDfa | None:
    """The same automaton without the states from which no text is accepted; None if nothing is left."""
    live, before = dfa.accept.copy(), -1
    while before != (before := int(live.sum())):
        live |= ((dfa.delta >= 0) & live[dfa.delta]).any(axis=1)
    if not live[0]:
        return None
    number = np.full(len(live) + 1, -1, dtype=np.int32)  # the last one is for -1
    number[np.flatnonzero(live)] = np.arange(before)
    return CharDfa(number[dfa.delta[live]], dfa.accept[live], dfa.alphabet)


def reach_backwards(steps: Sequence[Sequence[int]], wanted: Iterable[int]) -> set[int]:
    """The states from which `steps` lead to one that is wanted."""
    reverse: list[list[int]] = [[] for _ in steps]
    for state, afters in enumerate(steps):
        for after in afters:
            reverse[after].append(state)
    found, todo = set(wanted), list(wanted)
    while todo:
        for before in reverse[todo.pop()]:
            if before not in found:
                found.add(before)
                todo.append(before)
    return found
