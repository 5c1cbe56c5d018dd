"""A grammar as a network of automata that call each other, over classes of characters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from feynkac.potentials.constraints.automata.alphabet import Alphabet
from feynkac.potentials.constraints.engines.earley.loops import make_loops
from feynkac.potentials.constraints.engines.earley.machines import Machine, trim
from feynkac.potentials.constraints.engines.earley.notation import Grammar
from feynkac.potentials.constraints.engines.earley.writing import Writer


@dataclass(frozen=True)
class Rule:
    """One automaton of the network."""

    name: str
    machine: Machine
    nullable: bool


@dataclass(frozen=True)
class Network:
    """Automata by number; 0 is that of `start`. `alphabet`: the classes of characters that all of them tell apart."""

    rules: dict[int, Rule]
    alphabet: Alphabet


def build_network(grammar: Grammar) -> Network:
    """The network of a grammar. Raises ConstraintError with the line of what is wrong, or if no text derives."""
    writer = Writer(grammar)
    machines = writer.write()
    names = {number: name for name, number in writer.numbers.items()}
    if not (alive := _find_productive(machines)) >= {0}:
        at = grammar.definitions["start"].at
        raise grammar.fault(at, "no text derives from start: every way goes through a rule that needs itself")
    machines = {number: trim(machine, alive) for number, machine in machines.items() if number in alive}
    machines = make_loops(machines)
    nullable = _find_nullable(machines)
    rules = {n: Rule(names.get(n, ""), machine, n in nullable) for n, machine in machines.items()}
    return Network(rules, writer.alphabet)


def recurs(network: Network) -> bool:
    """Whether some rule needs itself, as those of all grammars do that nest: such texts have no longest one."""
    try:
        TopologicalSorter({n: set(rule.machine.calls()) for n, rule in network.rules.items()}).prepare()
    except CycleError:
        return True
    return False


def _find_productive(machines: dict[int, Machine]) -> set[int]:
    """The rules from which some text derives."""
    return _find_fixpoint(machines, lambda label, found: label >= 0 or ~label in found)


def _find_nullable(machines: dict[int, Machine]) -> set[int]:
    """The rules from which the empty text derives."""
    return _find_fixpoint(machines, lambda label, found: label < 0 and ~label in found)


def _find_fixpoint(machines: dict[int, Machine], may_pass: Callable[[int, set[int]], bool]) -> set[int]:
    """The rules whose automata have a way to a final state along labels that may be passed."""
    found: set[int] = set()
    while True:
        fresh = {n for n, machine in machines.items() if n not in found and _leads_through(machine, found, may_pass)}
        if not fresh:
            return found
        found |= fresh


def _leads_through(machine: Machine, found: set[int], may_pass: Callable[[int, set[int]], bool]) -> bool:
    seen, todo = {0}, [0]
    while todo:
        state = todo.pop()
        if state in machine.final:
            return True
        for label, afters in machine.moves[state].items():
            if may_pass(label, found):
                todo += [after for after in afters if after not in seen]
                seen.update(afters)
    return False
