"""What a grammar says: definitions of names by expressions, each with the place where it is written."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias

from feynkac.base.errors import ConstraintError


@dataclass(frozen=True)
class Text:
    """Characters as they stand."""

    text: str


@dataclass(frozen=True)
class Pattern:
    """A regular expression in Python's syntax."""

    source: str
    flags: int
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Span:
    """One character from `low` to `high`."""

    low: str
    high: str


@dataclass(frozen=True)
class Name:
    """What a rule or a terminal stands for; `arguments` are those of a template."""

    name: str
    arguments: tuple[Expression, ...] = ()
    at: int = field(default=0, compare=False)

    @property
    def is_terminal(self) -> bool:
        return is_terminal(self.name)


@dataclass(frozen=True)
class Chain:
    """One part after the other; nothing at all where there are none."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Choice:
    """Any one of the options."""

    options: tuple[Expression, ...]


@dataclass(frozen=True)
class Repeat:
    """`low` to `high` times in a row; without end where `high` is None."""

    body: Expression
    low: int
    high: int | None


@dataclass(frozen=True)
class Both:
    """What all parts have in common; of terminals only."""

    parts: tuple[Expression, ...]
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Outside:
    """All texts but those of `body`; of terminals only."""

    body: Expression
    at: int = field(default=0, compare=False)


Expression: TypeAlias = Text | Pattern | Span | Name | Chain | Choice | Repeat | Both | Outside


@dataclass(frozen=True)
class Definition:
    """The meaning of a name, or of a template with `parameters`."""

    parameters: tuple[str, ...]
    body: Expression
    at: int


@dataclass(frozen=True)
class Grammar:
    """All definitions of a text `source`, and what may stand between any two terminals."""

    source: str
    definitions: dict[str, Definition]
    ignored: tuple[Expression, ...]

    def fault(self, at: int, what: str) -> ConstraintError:
        """An error at a place of the source."""
        return make_fault(self.source, at, what)


class Extension(Exception):
    """The grammar uses what only llguidance has."""


def is_terminal(name: str) -> bool:
    """Whether a name is upper case, as those of terminals are."""
    return name.lstrip("_")[:1].isupper()


def make_fault(source: str, at: int, what: str) -> ConstraintError:
    """An error at a place of a source, with its line and column and the line itself."""
    line, start = source.count("\n", 0, at) + 1, source.rfind("\n", 0, at) + 1
    shown = source[start:].split("\n", 1)[0].replace("\t", " ")
    return ConstraintError(f"line {line}, column {at - start + 1}: {what}\n{shown}\n{' ' * (at - start)}^")


def fill_in(expression: Expression, values: dict[str, Expression]) -> Expression:
    """An expression with the parameters of its template replaced by their values."""

    def each(parts: tuple[Expression, ...]) -> tuple[Expression, ...]:
        return tuple(fill_in(part, values) for part in parts)

    match expression:
        case Name(name, ()) if name in values:
            return values[name]
        case Name(_, arguments):
            return replace(expression, arguments=each(arguments))
        case Chain(parts):
            return Chain(each(parts))
        case Choice(options):
            return Choice(each(options))
        case Repeat(body, low, high):
            return Repeat(fill_in(body, values), low, high)
        case Both(parts):
            return replace(expression, parts=each(parts))
        case Outside(body):
            return replace(expression, body=fill_in(body, values))
    return expression
