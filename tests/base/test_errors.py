"""Errors: what is told apart by what an error says, and what a message says of values."""

from __future__ import annotations

import pickle
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from feynkac.base.errors import FeynkacError, is_out_of_memory, quote
from feynkac.models.served.client import Refused


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), torch.OutOfMemoryError(), MemoryError(),
     RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
     RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory")],
    ids=repr,
)  # fmt: skip
def test_every_way_to_say_that_memory_ran_out_is_known(error) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), ValueError("out of memory"), KeyError("memory")]
)
def test_another_error_does_not_say_that_memory_ran_out(error) -> None:
    assert not is_out_of_memory(error)


class _Raises:
    def __repr__(self) -> str:
        raise KeyError("a fault of the user's")


class _Recurses:
    def __repr__(self) -> str:
        return f"{self!r}"


class _GivesNone:
    def __repr__(self) -> Any:
        return None


class _Letters(str):
    """A str that cannot be asked for its length, cut or formatted."""

    def __len__(self) -> int:
        raise OSError

    __getitem__ = __format__ = __str__ = __iter__ = __len__  # type: ignore[assignment]


class _GivesLetters:
    def __repr__(self) -> str:
        return _Letters("letters")


def _nest(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


ORDINARY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.binary(max_size=9)
    | st.text(st.characters(exclude_categories=["C", "Z"]), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(st.text("ab", max_size=2) | st.integers(), inner, max_size=3)
    | st.frozensets(st.integers(), max_size=3) | st.sets(st.text("ab", max_size=2), max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(ORDINARY)
def test_what_is_short_is_quoted_as_python_writes_it(value) -> None:
    written = repr(value)
    assert quote(value, max(len(written), 5)) == written
    assert len(quote(value, 20)) <= 20 and quote(value, 20)[:15] == written[:15]


@pytest.mark.parametrize(
    "value", [_Raises(), _Recurses(), _GivesNone(), 10**5_000], ids=lambda value: type(value).__name__
)
@pytest.mark.parametrize("hold", [lambda value: value, lambda value: [value], lambda value: {1: value}])
def test_what_cannot_be_written_is_told_by_its_type(hold, value) -> None:
    assert f"{type(value).__name__} object at" in quote(hold(value))


def test_a_repr_that_is_no_plain_str_is_made_one() -> None:
    assert quote(_GivesLetters()) == "letters"
    assert quote(_Letters("letters")) == "'letters'"


LARGE: list[Callable[[], Any]] = [
    lambda: "a" * 10**8, lambda: b"a" * 10**8, lambda: ["a" * 10**8], lambda: [0] * 10**7, lambda: _nest(10**5),
    lambda: {i: i for i in range(10**6)}, lambda: np.zeros(10**6), lambda: torch.zeros(10**6),
    lambda: torch.zeros(3, 10**6, device="meta"), lambda: OrderedDict(a=[1] * 10**5),
]  # fmt: skip


@pytest.mark.parametrize("make", LARGE)
def test_what_is_large_is_cut_and_takes_no_time(make) -> None:
    value = make()
    start = time.process_time()
    said = quote(value)
    assert time.process_time() - start < 0.5
    assert 10 < len(said) <= 120 and "\n" not in said


def test_what_holds_itself_is_quoted_as_python_writes_it() -> None:
    own: list[Any] = [1]
    own.append({"own": own, "pair": (own, 2)})
    assert quote(own) == repr(own)


@pytest.mark.parametrize("char", ["\ud800", "\x1b", "\u202e", "\x00"])
def test_nothing_quoted_is_obeyed_by_a_terminal(char) -> None:
    class Writes:
        def __repr__(self) -> str:
            return f"<{char}>"

    for value in (char, Writes(), [Writes()]):
        said = quote(value)
        assert char not in said and said.isprintable()


def list_kinds(kind: type[FeynkacError]) -> Iterator[type[FeynkacError]]:
    for derived in kind.__subclasses__():
        yield from (derived, *list_kinds(derived))


def test_errors_of_all_kinds_reach_other_processes() -> None:
    kinds = set(list_kinds(FeynkacError))
    assert Refused in kinds
    for kind in kinds:
        error = kind("said") if kind is not Refused else Refused("said", 404)
        error.step = 3
        arrived = pickle.loads(pickle.dumps(error))
        assert (type(arrived), str(arrived), vars(arrived)) == (kind, str(error), vars(error))
