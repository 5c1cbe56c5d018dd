"""All rules of a grammar in one automaton, which is cut into one for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from feynkac.base.errors import ConstraintError
from feynkac.potentials.constraints.automata.nfa import Nfa
from feynkac.potentials.constraints.engines.earley.machines import (
    Draft,
    Machine,
    TooLarge,
    free_of_free_moves,
    substitute,
    tidy,
)


class Recipe(NamedTuple):
    """How an automaton is made of others."""

    make: Callable[[list[Machine]], Machine]
    operands: list[int]


class Sheet:
    """The automaton in which rules are written side by side, and call each other by number."""

    def __init__(self) -> None:
        self.nfa = Nfa()
        self.bounds: dict[int, tuple[int, int]] = {}
        """Where each rule begins and ends."""
        self.recipes: dict[int, Recipe] = {}
        """Of rules that are not written but made."""
        self._calls: dict[int, list[tuple[int, int]]] = {}

    def call(self, number: int, state: int) -> int:
        """The state behind a call of a rule at `state`."""
        after = self.nfa.add_state()
        self._calls.setdefault(state, []).append((number, after))
        return after

    def cut(self, classes: Sequence[Sequence[int]]) -> dict[int, Machine]:
        """The automata by number, over `classes`, those of each set of characters of the sheet.

        Raises ConstraintError for a recipe that makes too large a one.
        """
        machines = {number: _tidy(self._draft(number, classes)) for number in sorted(self.bounds)}
        for number, recipe in self.recipes.items():  # inner ones were written first
            try:
                machines[number] = recipe.make([_flatten(machines, operand) for operand in recipe.operands])
            except TooLarge:
                raise ConstraintError("a terminal with & or ~ needs too large an automaton; make it simpler") from None
        return machines

    def _draft(self, number: int, classes: Sequence[Sequence[int]]) -> Draft:
        """The part of the sheet that belongs to one rule."""
        start, end = self.bounds[number]
        index, order = {start: 0}, [start]

        def find(state: int) -> int:
            if state not in index:
                index[state] = len(order)
                order.append(state)
            return index[state]

        draft = Draft()
        for state in order:
            here = draft.add_state()
            draft.free[here] = [find(after) for after in self.nfa.free[state]]
            for chars, after in self.nfa.moves[state]:
                draft.moves[here] += [(label, find(after)) for label in classes[chars]]
            for called, after in self._calls.get(state, ()):
                draft.moves[here].append((~called, find(after)))
        draft.final = {index[end]} if end in index else set()
        return draft


def _flatten(machines: dict[int, Machine], number: int) -> Machine:
    """The automaton of an operand, which may call those of inner recipes."""
    machine = machines[number]
    for called in set(machine.calls()):
        machine = tidy(substitute(machine, {called: machines[called]}))
    return tidy(machine.draft())


def _tidy(draft: Draft) -> Machine:
    try:
        return tidy(draft)
    except TooLarge:
        return free_of_free_moves(draft)
