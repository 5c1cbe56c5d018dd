"""Nondeterministic automata over characters, and their deterministic twins over classes of characters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ConstraintError
from feynkac.potentials.constraints.automata.alphabet import Alphabet, Ranges, build_alphabet

MAX_STATES = 100_000
_MAX_WORK = 20_000_000  # members of all sets of states looked at: seconds


@dataclass
class Nfa:
    """States with moves on sets of characters, and free moves: anywhere, only at the start, only at the end."""

    sets: list[Ranges] = field(default_factory=list)
    moves: list[list[tuple[int, int]]] = field(default_factory=list)
    """The moves of each state: pairs (index of a set, next state)."""
    free: list[list[int]] = field(default_factory=list)
    at_start: list[list[int]] = field(default_factory=list)
    at_end: list[list[int]] = field(default_factory=list)
    _index: dict[Ranges, int] = field(default_factory=dict)

    def add_state(self) -> int:
        """One more state."""
        if len(self.moves) >= MAX_STATES:
            raise TooLarge
        for table in (self.moves, self.free, self.at_start, self.at_end):
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
            after = np.column_stack([same, np.where(self.delta < 0, -1, same[self.delta])])
            finer = np.unique(after, axis=0, return_inverse=True)[1].reshape(-1)
            if finer.max() == same.max():
                break
            same = finer
        return same


def determinise(nfa: Nfa, start: int, end: int, name: str) -> CharDfa:
    """The automaton on sets of states. Raises ConstraintError if it accepts nothing; raises TooLarge."""
    letters, classes = build_alphabet(nfa.sets)
    moves = [[(classes[chars].tolist(), after) for chars, after in out if len(classes[chars])] for out in nfa.moves]
    accepting = _reach_backwards([nfa.free, nfa.at_end], {end}, len(moves))
    useful = _reach_backwards([nfa.free, [[after for _, after in out] for out in moves]], accepting, len(moves))
    movers = {state for state in useful if moves[state]}

    def key(free: list[list[list[int]]], states: Iterable[int]) -> tuple[frozenset[int], bool]:
        """The states that can move, and whether a text is accepted now: on nothing else depends what becomes of it."""
        closed = _close(free, states)
        return frozenset(closed & movers), not closed.isdisjoint(accepting)

    opening = key([nfa.free, nfa.at_start], {start})
    if end in _close([nfa.free, nfa.at_start, nfa.at_end], {start}):
        opening = (opening[0], True)
    if opening == (frozenset(), False):
        raise ConstraintError(f"{name} matches no text at all; loosen it")
    index, states = {opening: 0}, [opening]
    delta: list[NDArray[np.int32]] = []
    work = 0
    for members, _ in states:
        row = np.full(letters.n_classes, -1, dtype=np.int32)
        for letter, after in _find_targets(moves, members).items():
            found = key([nfa.free], after)
            if found != (frozenset(), False):
                row[letter] = index.setdefault(found, len(states))
                if row[letter] == len(states):
                    states.append(found)
            work += len(after) + len(found[0])
        delta.append(row)
        if len(states) > MAX_STATES or max(work, len(states) * letters.n_classes) > _MAX_WORK:
            raise TooLarge
    return CharDfa(np.array(delta), np.array([accept for _, accept in states]), letters)


def _find_targets(moves: list[list[tuple[list[int], int]]], members: Iterable[int]) -> dict[int, set[int]]:
    targets: dict[int, set[int]] = {}
    for member in members:
        for letters, after in moves[member]:
            for letter in letters:
                targets.setdefault(letter, set()).add(after)
    return targets


def _close(free: list[list[list[int]]], states: Iterable[int]) -> set[int]:
    found, todo = set(states), list(states)
    while todo:
        state = todo.pop()
        for table in free:
            for after in table[state]:
                if after not in found:
                    found.add(after)
                    todo.append(after)
    return found


def _reach_backwards(tables: list[list[list[int]]], states: set[int], n: int) -> set[int]:
    reverse: list[list[int]] = [[] for _ in range(n)]
    for table in tables:
        for state, afters in enumerate(table):
            for after in afters:
                reverse[after].append(state)
    return _close([reverse], states)
