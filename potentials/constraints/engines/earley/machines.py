"""Automata of single rules: they move on classes of characters, and by calls of other rules.

A label is a class of characters (0 or more), or `~r` for a call of rule r.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field

MOST_STATES = 20_000
MOST_WORK = 500_000


@dataclass
class Draft:
    """An automaton with free moves, as it is put together; 0 is the start."""

    moves: list[list[tuple[int, int]]] = field(default_factory=list)
    """The moves of each state: pairs (label, next state)."""
    free: list[list[int]] = field(default_factory=list)
    final: set[int] = field(default_factory=set)

    def add_state(self) -> int:
        """One more state."""
        self.moves.append([])
        self.free.append([])
        return len(self.moves) - 1

    def add_copy(self, machine: Machine) -> int:
        """The first of the states of a copy of `machine`, none of which is final here."""
        first = len(self.moves)
        for row in machine.moves:
            self.moves.append([(label, first + after) for label, afters in row.items() for after in afters])
            self.free.append([])
        return first


@dataclass(frozen=True)
class Machine:
    """An automaton without free moves; 0 is the start, and every state leads to a final one."""

    moves: tuple[dict[int, tuple[int, ...]], ...]
    """For each state the states after each label: one, where the automaton is deterministic."""
    final: frozenset[int]

    def calls(self) -> Iterator[int]:
        """The rules that are called, as often as they are."""
        for row in self.moves:
            for label, afters in row.items():
                if label < 0:
                    yield from [~label] * len(afters)

    def draft(self) -> Draft:
        """A draft of the same automaton, to go on with."""
        draft = Draft(final=set(self.final))
        draft.add_copy(self)
        return draft


class TooLarge(Exception):
    """The automaton would have more states than we are willing to hold."""


def tidy(draft: Draft, most: int = MOST_STATES) -> Machine:
    """The smallest deterministic automaton of a draft's language, where calls count as letters. Raises TooLarge."""
    return _minimise(_determinise(draft, most))


def free_of_free_moves(draft: Draft) -> Machine:
    """An automaton of a draft's language that may be nondeterministic: where `tidy` would be too large."""
    closed = [_close(draft, [state]) for state in range(len(draft.moves))]
    moves, final = [], set()
    for state, members in enumerate(closed):
        row: dict[int, set[int]] = {}
        for member in members:
            for label, after in draft.moves[member]:
                row.setdefault(label, set()).add(after)
        moves.append({label: tuple(sorted(afters)) for label, afters in row.items()})
        if members & draft.final:
            final.add(state)
    return trim(Machine(tuple(moves), frozenset(final)))


def _close(draft: Draft, states: Iterable[int]) -> frozenset[int]:
    found, todo = set(states), list(states)
    while todo:
        for after in draft.free[todo.pop()]:
            if after not in found:
                found.add(after)
                todo.append(after)
    return frozenset(found)


def _determinise(draft: Draft, most: int) -> Machine:
    opening = _close(draft, [0])
    index, found = {opening: 0}, [opening]
    moves: list[dict[int, tuple[int, ...]]] = []
    work = 0
    for members in found:
        targets: dict[int, set[int]] = {}
        for state in members:
            for label, after in draft.moves[state]:
                targets.setdefault(label, set()).add(after)
        row = {}
        closed: dict[frozenset[int], frozenset[int]] = {}
        for label, afters in targets.items():
            key = frozenset(afters)
            if key not in closed:
                closed[key] = _close(draft, afters)
                work += len(closed[key])
            after = index.setdefault(closed[key], len(found))
            if after == len(found):
                found.append(closed[key])
            row[label] = (after,)
        moves.append(row)
        if len(found) > most or work > MOST_WORK:
            raise TooLarge
    return Machine(tuple(moves), frozenset(i for i, members in enumerate(found) if members & draft.final))


def trim(machine: Machine, alive: Iterable[int] | None = None) -> Machine:
    """The same automaton without states that are not reached, or lead to no final one; `alive`: the rules to call.

    Without any state there is no text; then one state is left that accepts nothing.
    """
    may = None if alive is None else set(alive)
    moves = [
        {label: afters for label, afters in row.items() if label >= 0 or may is None or ~label in may}
        for row in machine.moves
    ]
    before: list[list[int]] = [[] for _ in moves]
    for state, row in enumerate(moves):
        for afters in row.values():
            for after in afters:
                before[after].append(state)
    useful = _reach(machine.final, lambda state: before[state])
    reached = _reach([0], lambda state: [after for afters in moves[state].values() for after in afters])
    kept = sorted((useful & reached) | {0})
    number = {state: i for i, state in enumerate(kept)}
    rows = []
    for state in kept:
        row = {label: tuple(number[a] for a in afters if a in number) for label, afters in moves[state].items()}
        rows.append({label: afters for label, afters in row.items() if afters})
    return Machine(tuple(rows), frozenset(number[state] for state in machine.final if state in number))


def _reach(start: Iterable[int], follow: Callable[[int], Iterable[int]]) -> set[int]:
    found, todo = set(start), list(start)
    while todo:
        for after in follow(todo.pop()):
            if after not in found:
                found.add(after)
                todo.append(after)
    return found


def _minimise(machine: Machine) -> Machine:
    """Moore's partition, of a deterministic automaton."""
    machine = trim(machine)
    labels = [tuple(sorted(row)) for row in machine.moves]
    targets = [[row[label][0] for label in order] for row, order in zip(machine.moves, labels, strict=True)]
    part = _number((state in machine.final, order) for state, order in enumerate(labels))
    count = 0
    while max(part) + 1 > count:
        count = max(part) + 1
        part = _number((part[state], *[part[after] for after in row]) for state, row in enumerate(targets))
    rows: list[dict[int, tuple[int, ...]]] = [{} for _ in range(count)]
    for state, row in enumerate(machine.moves):
        if not rows[part[state]]:
            rows[part[state]] = {label: (part[after],) for label, (after,) in row.items()}
    return Machine(tuple(rows), frozenset(part[state] for state in machine.final))


def _number(signs: Iterable[Hashable]) -> list[int]:
    """A number for each sign, equal for equal ones, in the order in which they come: that of state 0 is 0."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(sign, len(numbers)) for sign in signs]


def complement(machine: Machine, n_classes: int) -> Machine:
    """All texts but those of a deterministic automaton without calls."""
    sink = len(machine.moves)
    draft = Draft(final=set(range(sink + 1)) - machine.final)
    for row in (*machine.moves, {}):
        draft.moves.append([(label, row[label][0] if label in row else sink) for label in range(n_classes)])
        draft.free.append([])
    return tidy(draft)


def intersect(one: Machine, two: Machine) -> Machine:
    """The texts of two deterministic automata without calls. Raises TooLarge."""
    index, found = {(0, 0): 0}, [(0, 0)]
    draft = Draft()
    for a, b in found:
        state = draft.add_state()
        if a in one.final and b in two.final:
            draft.final.add(state)
        for label in one.moves[a].keys() & two.moves[b].keys():
            pair = one.moves[a][label][0], two.moves[b][label][0]
            draft.moves[state].append((label, index.setdefault(pair, len(found))))
            if index[pair] == len(found):
                found.append(pair)
        if len(found) > MOST_STATES:
            raise TooLarge
    return tidy(draft)


def unroll(machine: Machine, rule: int) -> Draft | None:
    """The same automaton with its first and last calls of itself as loops (Arden's rule); None if it has none.

    With A = A x | y, A is y x*: what ends may go on behind the first call. With A = z A | y, where nothing but such an
    x follows the call, the text begins anew.
    """
    label = ~rule
    tails = {1 + state for state in machine.final if not machine.moves[state]}
    draft = Draft()
    draft.add_state()  # a start of its own, which nothing leads back to
    draft.add_copy(machine)
    draft.final = {1 + state for state in machine.final} | ({0} if 0 in machine.final else set())
    draft.moves[0] = [move for move in draft.moves[1] if move[0] != label]
    behind_first = [after for at, after in draft.moves[1] if at == label]
    for state in draft.final if behind_first else ():
        draft.free[state] += behind_first
    found = bool(behind_first)
    for state in range(1, len(draft.moves)):
        last = [move for move in draft.moves[state] if move[0] == label and move[1] in tails]
        if last:
            found = True
            draft.moves[state] = [move for move in draft.moves[state] if move not in last]
            draft.free[state].append(0)
    return draft if found else None


def substitute(machine: Machine, inner: dict[int, Machine]) -> Draft:
    """The same automaton with each call of a rule in `inner` replaced by a copy of its automaton."""
    draft = machine.draft()
    for state in range(len(machine.moves)):
        moves, draft.moves[state] = draft.moves[state], []
        for label, after in moves:
            if label >= 0 or ~label not in inner:
                draft.moves[state].append((label, after))
                continue
            first = draft.add_copy(inner[~label])
            draft.free[state].append(first)
            for end in inner[~label].final:
                draft.free[first + end].append(after)
    return draft
