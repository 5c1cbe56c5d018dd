"""Values that no argument expects, and some that it does."""

from __future__ import annotations

import datetime
import decimal
import fractions
import math
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from feynkac.base.errors import quote

NUMBERS: list[Any] = [
    0, 1, 2, 3, -1, True, False, 0.5, -0.5, 2.0, 1e-320, 1e308, math.nan, math.inf, -math.inf, 10**30, -(10**30),
    10**400, 2**63,
    1j, np.int64(2), np.int8(-1), np.uint8(3), np.float32(0.5), np.float64("nan"), np.bool_(True), np.float16(2),
    np.datetime64("2020"),
    fractions.Fraction(1, 3), fractions.Fraction(10**400, 3), decimal.Decimal("2"), decimal.Decimal("NaN"),
    decimal.Decimal("1e999999"),
]  # fmt: skip
TEXTS: list[Any] = [
    "", "a", "b", "ab", " ", "\n", "\0", "\x1b[31m", "\ud800", "a\udfffb", "é漢👩‍🚀", "\u202e", "a" * 3_000, "{}",
    "[", "(", ".py", "/", "~",
    "nan", "end", "token", "word", "sentence", "smc", "exact", "max", "raise", "kill", "all", "</s>", "%", "{0}",
    "{a!r}", "\\", "None",
]  # fmt: skip
BYTES: list[Any] = [b"", b"a", b"\xff", bytearray(b"a"), memoryview(b"a")]
ARRAYS: list[Any] = [
    np.array([]), np.array([1, 2]), np.array(1), np.array("a"), np.array(["a", "b"]), np.array([np.nan, 1.0]),
    np.zeros((2, 2)),
    np.array([None, 1]), torch.tensor([]), torch.tensor([1, 2]), torch.tensor(1.0), torch.tensor([math.nan]),
    torch.zeros(2, 2),
    torch.tensor(2), torch.ones(2, dtype=torch.bool),
    np.ma.masked, np.ma.array([1, 2], mask=[False, True]), np.ma.array(1.0, mask=True), np.zeros((0, 3)),
    np.array((1, 2.0), dtype=[("a", int), ("b", float)]), np.zeros(2, dtype=[("a", int)]), np.array("a", dtype=object),
    np.zeros(1, dtype=[("a", float)])[0], torch.tensor(2, device="meta"), torch.zeros(2, device="meta"),
    torch.zeros(2, 2).to_sparse(), torch.ones(1).to_sparse(), torch.tensor(1.0, requires_grad=True), torch.tensor(1j),
    torch.tensor([1.0], dtype=torch.bfloat16),
]  # fmt: skip


def _takes_none() -> float:
    return 0.0


def _takes_any(*_: Any, **__: Any) -> float:
    return 0.0


def _gives_none(text: Any) -> None:
    return None


def _gives_text(text: Any) -> str:
    return "a"


def _gives_bool(text: Any) -> bool:
    return True


def _gives_nan(text: Any) -> float:
    return math.nan


def _raises(*_: Any, **__: Any) -> Any:
    raise KeyError("a fault of the user's")


def _yields(text: Any) -> Any:
    yield 1.0


async def _waits(text: Any) -> float:
    return 1.0


class Plain:
    """An object that offers nothing."""


class Lies:
    """An object that has whatever is asked for, as mocks do."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self


CALLABLES: list[Any] = [
    _takes_none, _takes_any, _gives_none, _gives_text, _gives_bool, _gives_nan, _raises, _yields, _waits, len,
    print, int, str, dict,
    Plain, Lies(), re.compile("a"), re.compile(b"a"),
]  # fmt: skip


def _holds_itself() -> list[Any]:
    own: list[Any] = [1]
    own.append(own)
    return own


def _nest(depth: int) -> Any:
    value: Any = "a"
    for _ in range(depth):
        value = [value]
    return value


def _fault(*_: Any, **__: Any) -> Any:
    raise KeyError("a fault of the user's")


LIES: dict[str, list[Callable[..., Any]]] = {
    "__repr__": [_fault, lambda self: None, lambda self: repr(self), lambda self: "a\ud800\x1b[31m" * 99],
    "__str__": [_fault, lambda self: 1],
    "__eq__": [_fault, lambda self, other: True, lambda self, other: np.zeros(2)],
    "__hash__": [_fault, lambda self: "a"],
    "__len__": [_fault, lambda self: -1, lambda self: 10**30, lambda self: 2],
    "__bool__": [_fault, lambda self: 2],
    "__iter__": [_fault, lambda self: None, lambda self: (_fault() for _ in "a")],
    "__getitem__": [_fault, lambda self, at: self],
    "__float__": [_fault, lambda self: "a"],
    "__index__": [_fault, lambda self: "a"],
    "__fspath__": [_fault, lambda self: 1],
}
"""What a method of Python's may do instead of what it is for."""
BROKEN: list[Any] = [
    type(f"Broken{name.strip('_').title()}", (base,), {name: act})()
    for name, acts in LIES.items()
    for act in acts
    for base in (object, *(kind for kind in (list, dict) if name in vars(kind)))
    if not (name == "__getitem__" and act is not _fault)  # without __iter__ it has no end
]
OBJECTS: list[Any] = [
    None, ..., NotImplemented, object(), Plain(), type, math, pathlib.Path("a"), datetime.date(2020, 1, 1),
    slice(1), range(3), iter([1]),
    _holds_itself(), _nest(150), ValueError("a"),
]  # fmt: skip
CONTAINERS: list[Any] = [
    [], (), {}, set(), frozenset("a"), [1], [None], ["a", 1], ["a", "b"], ("a", "b"), [[]], [math.nan], {"a": 1},
    {"a": None}, {1: 2},
    {"a": math.nan}, {None: 1}, {"a", "b"}, [["a", "b"], ["c"]], [("a", 1.0)], [b"a"], {"type": "string"},
    {"role": "user", "content": "a"},
    [{"role": "user", "content": "a"}], [{"role": 1, "content": None}], [{}], {"a": {"b": []}}, [True], [-1],
    [10**30], [0, 1],
]  # fmt: skip
EVERYTHING: list[Any] = [*NUMBERS, *TEXTS, *BYTES, *ARRAYS, *CALLABLES, *OBJECTS, *CONTAINERS, *BROKEN]


class Held:
    """A value that Hypothesis can show, whatever its own `repr` does."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return quote(self.value)


def generators() -> Any:
    """A fresh iterator, which can be gone through once."""
    return st.sampled_from([(), ("a",), ("a", 1), (None,)]).map(lambda entries: Held(iter(entries)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
HOSTILE = (
    st.sampled_from([Held(value) for value in EVERYTHING])
    | generators()
    | (JSON | st.text(max_size=20) | st.binary(max_size=6)).map(Held)
)
"""Any of them, and others that Hypothesis makes up, each in a `Held`."""
