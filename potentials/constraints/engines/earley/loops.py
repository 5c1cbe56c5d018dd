"""Makes recursion into loops, and few rules of many: what calls are left are those that need a stack."""

from __future__ import annotations

from collections import Counter

from feynkac.potentials.constraints.engines.earley.machines import Machine, TooLarge, substitute, tidy, unroll

_MOST_UNROLLED = 4
_SMALL, _MOST_PUT_IN = 64, 4_000
"""States that putting a rule in may add: always, and where it is called from one place only."""


def make_loops(machines: dict[int, Machine]) -> dict[int, Machine]:
    """Automata of the same rules, as far as 0 still calls them, with fewer calls."""
    return _put_in({number: _unroll(machine, number) for number, machine in machines.items()})


def _unroll(machine: Machine, number: int) -> Machine:
    """The automaton with as many loops as can be had for calls of itself.

    Where a loop makes a further first call (in A = A A x | nothing), it is not clear that there is an end to it.
    """
    for _ in range(_MOST_UNROLLED):
        draft = unroll(machine, number)
        if draft is None:
            break
        try:
            machine = tidy(draft, 4 * len(machine.moves) + _SMALL)
        except TooLarge:
            break
    return machine


def _put_in(machines: dict[int, Machine]) -> dict[int, Machine]:
    """Put rules that do not call themselves in where they are called, as long as it costs little."""
    refused: set[int] = set()
    while True:
        machines = _drop_unused(machines)
        calls = {number: Counter(machine.calls()) for number, machine in machines.items()}
        chosen = _choose(machines, calls, refused)
        if not chosen:
            return machines
        changed = {}
        for number, machine in machines.items():
            if inner := chosen & calls[number].keys():
                try:
                    draft = substitute(machine, {called: machines[called] for called in inner})
                    changed[number] = _unroll(tidy(draft, _MOST_PUT_IN), number)
                except TooLarge:
                    refused |= inner
        machines = machines | changed


def _choose(machines: dict[int, Machine], calls: dict[int, Counter[int]], refused: set[int]) -> set[int]:
    """Rules that are worth putting in, none of which calls another."""
    sites = sum(calls.values(), Counter())
    costs = {number: len(machines[number].moves) * (sites[number] - 1) for number in machines}
    chosen: set[int] = set()
    for number in sorted(machines.keys() - refused - {0}, key=lambda n: (costs[n], len(machines[n].moves), n)):
        alone = sites[number] == 1 and len(machines[number].moves) <= _MOST_PUT_IN
        apart = number not in calls[number] and not any(number in calls[n] or n in calls[number] for n in chosen)
        if apart and (costs[number] <= _SMALL or alone):
            chosen.add(number)
    return chosen


def _drop_unused(machines: dict[int, Machine]) -> dict[int, Machine]:
    found, todo = {0}, [0]
    while todo:
        for called in machines[todo.pop()].calls():
            if called not in found:
                found.add(called)
                todo.append(called)
    return {number: machine for number, machine in machines.items() if number in found}
