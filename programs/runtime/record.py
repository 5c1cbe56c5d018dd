"""The record of a particle: every request it made and what came back, as a list whose prefixes are shared by forks."""

from __future__ import annotations

import reprlib
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from feynkac.base.errors import ReplayDiverged
from feynkac.base.tokens import Token

SAMPLE = "sample"
OBSERVE = "observe"
CONDITION = "condition"
FACTOR = "factor"
TWIST = "twist"
QUERY = "log_prob"
ONCE = "once"
RNG = "rng"
RETURN = "return"
DEATH = "death"

CHOICES = (SAMPLE, ONCE, RNG)
"""Kinds of records whose value does not follow from what went before."""


class Record(NamedTuple):
    """One request, compared by `kind` and `key` when the program is run again."""

    before: Tail
    kind: str
    key: Any
    value: Any
    """What the program was given."""
    after: Any
    """Where the request left its context."""


Tail: TypeAlias = "tuple[Tail, str, Any, Any, Any] | None"
"""The last record of a particle, and by it all of them: the fields of `Record` in plain tuples.

A run makes as many as it makes requests, and Python's collector forgets a plain tuple of plain values, but goes through
named tuples again and again: they made a program without a model a fifth slower.
"""

_SHORT = reprlib.Repr()

Request: TypeAlias = "tuple[str, Any]"
"""The kind and the key of a request, by which a record is compared."""


def get_kind(tail: Tail) -> str | None:
    """The kind of the last request; None before the first."""
    return None if tail is None else tail[1]


def list_backwards(tail: Tail) -> list[Any]:
    """All records up to `tail`, the last one first: popped from the end they come in order."""
    found = []
    while tail is not None:
        found.append(tail)
        tail = tail[0]
    return found


def list_choices(tail: Tail) -> list[list[Record]]:
    """The choices of a record, one list for each step of the engine: a step ends before the next sample."""
    steps: list[list[Record]] = [[]]
    for record in (Record(*fields) for fields in reversed(list_backwards(tail))):
        if record.kind is SAMPLE and any(earlier.kind is SAMPLE for earlier in steps[-1]):
            steps.append([])
        if record.kind in CHOICES:
            steps[-1].append(record._replace(before=None))
    return steps


def find_sampled(tail: Tail, t: int) -> tuple[Any] | None:
    """What was sampled in step `t`, the last one, as a 1-tuple; None where the particle has died before it was."""
    died = get_kind(tail) is DEATH
    while tail is not None and tail[1] is not SAMPLE:
        tail = tail[0]
    if tail is None or (died and sum(each[1] is SAMPLE for each in list_backwards(tail)) <= t):
        return None
    return (tail[3],)


def write_value(value: Any) -> bytes:
    """What was sampled as a text in UTF-8, shortened where it is neither a text nor a number."""
    if isinstance(value, Token):
        return b"" if value.is_eos else value.bytes
    text = str(value) if isinstance(value, str | int | float | np.generic) else _SHORT.repr(value)
    return text.encode("utf-8", "replace")


def describe(kind: str, key: Any) -> str:
    """A request as the user wrote it, more or less."""
    if isinstance(key, tuple) and key and isinstance(key[0], str):
        name, *rest = key
        key = f"{name}({', '.join(map(str, rest))})"
    text = f"{kind}({'' if key is None else key})"
    return text if len(text) <= 160 else f"{text[:120]} ... {text[-30:]}"


def make_divergence(name: str, row: int, number: int, was: str, now: str) -> ReplayDiverged:
    """The error of a program that is not a function of its choices."""
    return ReplayDiverged(
        f"program '{name}', particle {row}: when it was run again to fork a particle, request {number} was {now}, but "
        f"the first time it was {was}. A program may depend only on its arguments and on what p returns, and must "
        "leave its arguments and globals as they are: take random numbers from p.sample or p.rng, and what may change "
        "(the clock, files, other services) through p.once(f)"
    )
