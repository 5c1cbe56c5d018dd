"""Writes the definitions of a grammar as automata of rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce

from feynkac.base.errors import ConstraintError
from feynkac.potentials.constraints.automata.alphabet import build_alphabet
from feynkac.potentials.constraints.automata.characters import ANY_CHAR
from feynkac.potentials.constraints.automata.expressions import add_pattern
from feynkac.potentials.constraints.automata.nfa import TooLarge
from feynkac.potentials.constraints.engines.earley.machines import Machine, complement, intersect
from feynkac.potentials.constraints.engines.earley.notation import (
    Both,
    Chain,
    Choice,
    Expression,
    Grammar,
    Name,
    Outside,
    Pattern,
    Repeat,
    Span,
    Text,
    fill_in,
    is_terminal,
)
from feynkac.potentials.constraints.engines.earley.sheet import Recipe, Sheet

_MOST_RULES = 10_000


class Writer:
    """Writes every definition that `start` needs as an automaton."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._definitions = dict(grammar.definitions)
        self._sheet = Sheet()
        self._nfa = self._sheet.nfa
        self.numbers: dict[str, int] = {}
        self._instances: dict[tuple[str, tuple[Expression, ...]], str] = {}
        self._inside: list[str] = []  # the terminals whose definitions are being written
        self._skip = Repeat(Choice(grammar.ignored), 0, None) if grammar.ignored else None

    def write(self) -> dict[int, Machine]:
        """The automata by number."""
        if "start" not in self._definitions:
            raise self._grammar.fault(0, "there is no rule named start, from which texts derive")
        todo = [Name("start")]
        self._find_number(todo[0])
        for name in todo:
            self._write(name.name, todo)
        sets = [*self._nfa.sets, ANY_CHAR] if self._sheet.recipes else self._nfa.sets
        self.alphabet, classes = build_alphabet(sets)
        return self._sheet.cut([chars.tolist() for chars in classes])

    def _write(self, name: str, todo: list[Name]) -> None:
        self._todo = todo
        definition = self._definitions[name]
        try:
            start = self._nfa.add_state()
            end = start
            if is_terminal(name):
                self._inside = [name]
                end = self._add(definition.body, start)
                self._inside = []
            else:
                if name == "start" and self._skip is not None:
                    end = self._add_skip(end)
                end = self._add(definition.body, end)
        except TooLarge:
            raise self._grammar.fault(
                definition.at,
                f"{name.split('{')[0]} needs too large an automaton; shorten counted repeats, and templates that call "
                "themselves",
            ) from None
        self._sheet.bounds[self.numbers[name]] = start, end

    def _find_number(self, name: Name) -> int:
        if name.name not in self._definitions:
            kind = "terminal" if name.is_terminal else "rule"
            raise self._grammar.fault(name.at, f"{name.name}: there is no {kind} of this name")
        definition = self._definitions[name.name]
        if len(definition.parameters) != len(name.arguments):
            raise self._grammar.fault(
                name.at, f"{name.name} takes {len(definition.parameters)} arguments, and not {len(name.arguments)}"
            )
        if len(self.numbers) >= _MOST_RULES:
            raise self._grammar.fault(name.at, f"more than {_MOST_RULES} rules; shorten it")
        return self.numbers.setdefault(name.name, len(self.numbers))

    def _add(self, expression: Expression, state: int) -> int:
        match expression:
            case Chain(parts):
                for part in parts:
                    state = self._add(part, state)
                return state
            case Choice(options):
                return self._add_choice(options, state)
            case Repeat(body, low, high):
                return self._add_repeat(body, low, high, state)
            case Name():
                return self._add_name(expression, state)
            case Both(parts):
                self._check_terminal("&", expression.at)
                return self._add_recipe(parts, partial(reduce, intersect), state)
            case Outside(body):
                self._check_terminal("~", expression.at)
                return self._add_recipe((body,), lambda ms: complement(ms[0], self.alphabet.n_classes), state)
        return self._add_skip(self._add_literal(expression, state))

    def _add_literal(self, literal: Expression, state: int) -> int:
        match literal:
            case Text(text):
                for char in text:
                    state = self._nfa.add_move(state, ((ord(char), ord(char) + 1),))
            case Span(low, high):
                state = self._nfa.add_move(state, ((ord(low), ord(high) + 1),))
            case Pattern(source, flags, at):
                try:
                    state = add_pattern(self._nfa, state, source, flags, f"/{source}/")
                except ConstraintError as error:
                    raise self._grammar.fault(at, str(error)) from None
        return state

    def _add_skip(self, state: int) -> int:
        """What may be ignored stands behind every terminal, and before the first one."""
        if self._skip is None or self._inside:
            return state
        self._inside = ["%ignore"]
        state = self._add(self._skip, state)
        self._inside = []
        return state

    def _add_choice(self, options: tuple[Expression, ...], state: int) -> int:
        join = self._nfa.add_state()
        for option in options:
            head = self._nfa.add_state()
            self._nfa.free[state].append(head)
            self._nfa.free[self._add(option, head)].append(join)
        return join

    def _add_repeat(self, body: Expression, low: int, high: int | None, state: int) -> int:
        for _ in range(low):
            state = self._add(body, state)
        if high is None:
            head = self._nfa.add_state()
            self._nfa.free[state].append(head)
            self._nfa.free[self._add(body, head)].append(head)
            return head
        skips = [state]
        for _ in range(high - low):
            skips.append(self._add(body, skips[-1]))
        last = self._nfa.add_state()
        for skip in skips:
            self._nfa.free[skip].append(last)
        return last

    def _add_name(self, name: Name, state: int) -> int:
        if name.arguments:
            name = self._instantiate(name)
        if self._inside:
            return self._add_inner(name, state)
        known = name.name in self.numbers
        after = self._sheet.call(self._find_number(name), state)
        if not known:
            self._todo.append(name)
        return self._add_skip(after) if name.is_terminal else after

    def _add_inner(self, name: Name, state: int) -> int:
        """A terminal within a terminal: its definition stands there itself."""
        if not name.is_terminal:
            raise self._grammar.fault(
                name.at, f"{self._inside[-1]} is made of terminals only, and {name.name} is a rule"
            )
        if name.name in self._inside:
            raise self._grammar.fault(name.at, f"{name.name} needs itself; terminals cannot, write it as a rule")
        if name.name not in self._definitions:
            raise self._grammar.fault(name.at, f"{name.name}: there is no terminal of this name")
        self._inside.append(name.name)
        after = self._add(self._definitions[name.name].body, state)
        self._inside.pop()
        return after

    def _instantiate(self, name: Name) -> Name:
        """The rule that a template stands for with certain arguments."""
        made = self._instances.setdefault((name.name, name.arguments), f"{name.name}{{{len(self._instances)}}}")
        if made not in self._definitions:
            template = self._definitions.get(name.name)
            if template is None or len(template.parameters) != len(name.arguments):
                self._find_number(name)
            assert template is not None
            values = dict(zip(template.parameters, name.arguments, strict=True))
            self._definitions[made] = type(template)((), fill_in(template.body, values), template.at)
        return Name(made, (), name.at)

    def _check_terminal(self, sign: str, at: int) -> None:
        if not self._inside:
            raise self._grammar.fault(at, f"{sign} stands in terminals only, whose names are upper case")

    def _add_recipe(self, parts: Sequence[Expression], make: Callable[[list[Machine]], Machine], state: int) -> int:
        """A call of an automaton that is made of those of `parts`."""
        operands = []
        for part in parts:
            start = self._nfa.add_state()
            end = self._add(part, start)
            operands.append(self._number_anew())
            self._sheet.bounds[operands[-1]] = start, end
        number = self._number_anew()
        self._sheet.recipes[number] = Recipe(make, operands)
        return self._sheet.call(number, state)

    def _number_anew(self) -> int:
        return self.numbers.setdefault(f"({len(self.numbers)})", len(self.numbers))
