"""Runs of programs as trees (see `feynkac.base.capabilities.Saves`): their records, and the histories these lead to.

A program is not written, nor is what it holds: it is run again on its record, as it is where a particle is forked. What
a record has of a context is a node of the tree of histories; the caches of these are taken up where the program opens
its first context again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.memory import Memory
from feynkac.base.tokens import Token, TokenSet
from feynkac.models.language.language_model import LanguageModel
from feynkac.models.language.nodes import Node
from feynkac.programs.runtime.record import (
    CONDITION,
    DEATH,
    FACTOR,
    OBSERVE,
    ONCE,
    QUERY,
    RETURN,
    RNG,
    SAMPLE,
    TWIST,
    Tail,
    describe,
)  # fmt: skip
from feynkac.programs.runtime.recorder import fingerprint
from feynkac.programs.runtime.rows import ProgramCall, ProgramRow
from feynkac.programs.runtime.scheduler import Run
from feynkac.programs.runtime.shelved import NodeTable, shelve, take_down

if TYPE_CHECKING:
    from feynkac.programs.population import Particles

_KINDS = {kind: kind for kind in (SAMPLE, OBSERVE, CONDITION, FACTOR, TWIST, QUERY, ONCE, RNG, RETURN, DEATH)}
"""The kinds of records, which are compared by identity."""
_PLAIN = (bool, int, float, str, bytes, type(None), np.ndarray)
_TAG = "~"
_AGAIN = {_TAG: "again"}
"""What a program returned, where that cannot be written: its program is run again."""


def identify_argument(value: Any) -> Any:
    """What tells an argument of a program from others: itself, if it is plain; what a language model says of itself."""
    if isinstance(value, LanguageModel):
        return value.identify()
    if isinstance(value, list | tuple):
        return [identify_argument(each) for each in value]
    if isinstance(value, dict):
        return {str(name): identify_argument(each) for name, each in value.items()}
    return value if isinstance(value, bool | int | float | str) or value is None else type(value).__name__


class TextPlace(NamedTuple):
    """Where a context stood in another process."""

    text: str

    def read(self) -> str:
        """The text behind its prompt."""
        return self.text


def save_particles(state: Particles) -> dict[str, Any]:
    """A population of programs. Raises ArgumentError that names the request whose value cannot be written."""
    table = NodeTable()
    records = _Records(state.run.name, table)
    rows = [records.add_row(row) for row in state.rows]
    return {
        "rows": rows,
        "records": records.written,
        "histories": shelve(state.run.models, table),
        "nodes": table.entries,
        "t": state.run.t,
        "memory": state.memory.save(),
    }


class _Records:
    """The records of all rows, those that they share but once: each with the number of the one before it."""

    def __init__(self, name: str, table: NodeTable) -> None:
        self._name, self._table = name, table
        self.written: list[Any] = []
        self._numbers: dict[int, int] = {}

    def add_row(self, row: ProgramRow) -> Any:
        request = None if row.request is None else (row.request[0], self._write(row.request[1], "a request"))
        return [row.group, self._add(row.tail), request, [place.read() for place in row.places]]

    def _add(self, tail: Tail) -> int:
        new: list[Any] = []
        while tail is not None and id(tail) not in self._numbers:
            new.append(tail)
            tail = tail[0]
        number = -1 if tail is None else self._numbers[id(tail)]
        for each in reversed(new):
            self.written.append([number, *self._write_record(each)])
            number = self._numbers[id(each)] = len(self.written) - 1
        return number

    def _write_record(self, tail: Any) -> list[Any]:
        _, kind, key, value, after = tail
        if kind is DEATH:
            return [kind, key, [place.read() for place in value], None]
        where = f"{describe(kind, key)} of program '{self._name}'"
        if kind is RETURN:
            return [kind, key, self._write_returned(value), None]
        if kind is OBSERVE:
            value = fingerprint(value)  # the program has the value itself
        elif kind is SAMPLE and isinstance(value, Token):
            value = value.id
        elif kind is SAMPLE and isinstance(key, tuple) and key[:1] == ("span token",):
            value = (value[0], None, value[2])  # states of automata are numbers of one process
        return [kind, self._write(key, where), self._write(value, where), self._write(after, where)]

    def _write_returned(self, value: Any) -> Any:
        try:
            return self._write(value, "")
        except ArgumentError:
            return _AGAIN

    def _write(self, value: Any, where: str) -> Any:
        if type(value) in _PLAIN or isinstance(value, np.number | np.bool_):
            return value
        if type(value) in (tuple, list):
            parts = [self._write(each, where) for each in value]
            return tuple(parts) if type(value) is tuple else parts
        if type(value) is dict:
            pairs = [(self._write(name, where), self._write(each, where)) for name, each in value.items()]
            return {_TAG: "dict", "of": pairs}
        if isinstance(value, Node):
            return {_TAG: "node", "of": self._table.number(value)}
        if isinstance(value, TokenSet):
            return {_TAG: "tokens", "of": value.packed, "size": value.size}
        raise ArgumentError(
            f"{where} has {quote(value, 80)}, a {type(value).__name__}, which no checkpoint can hold; let it "
            "be a number, a text, an array, or a list, tuple or dict of these, or run without checkpoint="
        )


def load_particles(run: Run, calls: Sequence[ProgramCall], saved: dict[str, Any]) -> tuple[list[ProgramRow], Memory]:
    """The rows that `save_particles` gave, as runs of `calls`, one for each problem."""
    run.t = saved["t"]
    nodes = take_down(run.models, saved["histories"], saved["nodes"])
    tails: list[Any] = []
    again = set[int]()
    for before, kind, key, value, after in saved["records"]:
        kind = _KINDS[kind]
        if kind is RETURN and isinstance(value, dict) and value == _AGAIN:
            again.add(len(tails))
        value = tuple(map(TextPlace, value)) if kind is DEATH else _read(value, nodes)
        tails.append((None if before < 0 else tails[before], kind, _read(key, nodes), value, _read(after, nodes)))
    rows = []
    for i, (group, number, request, places) in enumerate(saved["rows"]):
        tail = None if number < 0 else tails[number]
        if number in again:
            assert tail is not None
            tail = run.return_again(i, calls[group], tail[0])
        asked = None if request is None else (_KINDS[request[0]], _read(request[1], nodes))
        rows.append(ProgramRow(calls[group], group, tail, asked, tuple(map(TextPlace, places))))
    return rows, Memory.load(saved["memory"])


def _read(value: Any, nodes: Sequence[Node]) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_read(each, nodes) for each in value)
    if not isinstance(value, dict):
        return value
    return _READERS[value[_TAG]](value, nodes)


_READERS: dict[str, Any] = {
    "dict": lambda value, nodes: {_read(name, nodes): _read(each, nodes) for name, each in value["of"]},
    "node": lambda value, nodes: nodes[value["of"]],
    "tokens": lambda value, nodes: TokenSet(value["of"], value["size"]),
    "again": lambda value, nodes: None,
}
