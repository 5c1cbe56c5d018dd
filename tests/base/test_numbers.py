"""Numbers, words, flags and lists as arguments: what is one, and what only looks like one."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.base.lists import as_dict, as_list, as_sequence
from feynkac.base.numbers import as_bool, as_real, as_whole, find_shape, read_flag, read_real, read_seed, take_only
from feynkac.base.paths import read_path
from feynkac.base.words import is_word

HUGE = 10**400


def test_a_number_too_large_for_a_float_is_refused_and_not_overflown() -> None:
    for huge in (HUGE, -HUGE, Fraction(HUGE, 3)):
        assert as_real(huge) is None
        with pytest.raises(ArgumentError, match="seconds is"):
            read_real("seconds", huge, 0.0)
    refused: list[Callable[[], Any]] = [
        lambda: fk.reward(len, scale=HUGE),
        lambda: fk.reward(len) ** HUGE,
        lambda: fk.power(HUGE),
        lambda: fk.Bernoulli(HUGE),
        lambda: fk.Uniform(0, HUGE),
        lambda: fk.Categorical([1, HUGE]).draw(0.5),
    ]
    for call in refused:
        with pytest.raises(ArgumentError):
            call()


@pytest.mark.parametrize("value", [True, "1", None, 1j, Decimal(1), [1], np.array([1.0, 2.0]), object()])
def test_what_only_looks_like_a_number_is_none(value) -> None:
    assert as_real(value) is None


def test_numbers_in_arrays_and_tensors_are_numbers() -> None:
    for one in (np.float32(2), np.array([2]), torch.tensor(2.0), torch.tensor([[2]]), Fraction(2), 2):
        assert as_real(one) == 2.0
    assert (
        as_whole(torch.tensor(3)) == as_whole(np.int8(3)) == 3 and as_whole(2.0) is as_whole(np.array([1, 2])) is None
    )
    assert as_bool(np.array([True])) is True and as_bool(1) is None
    memory = memoryview(b"a")  # has a shape, and no item
    assert take_only(memory) is memory and find_shape(torch.zeros(2, 3)) == (2, 3) and find_shape("a") == ()


def test_what_is_no_flag_and_no_seed_is_refused_by_name() -> None:
    assert (
        read_flag("batch", np.True_) is True and read_seed("seed", None) is None and read_seed("seed", np.int64(3)) == 3
    )
    for flag in (0, 1, None, "yes", np.array([True, False]), torch.zeros(2, 2)):
        with pytest.raises(ArgumentError, match="batch is"):
            read_flag("batch", flag)
    for seed in (-1, 1.5, "a", True, np.array([1, 2])):
        with pytest.raises(ArgumentError, match="seed is"):
            read_seed("seed", seed)


@pytest.mark.parametrize("value", [np.array(["a", "b"]), ["a"], {"a": 1}, None, 1, {1, 2}, torch.zeros(2)])
def test_what_is_compared_entry_by_entry_or_has_no_hash_is_no_word(value) -> None:
    """`value in words` would raise for some of them."""
    assert not is_word(value, ("a", "b")) and not is_word(value, {"a": 1})
    assert is_word("a", ("a", "b")) and is_word(np.str_("b"), ("a", "b"))
    for call in (
        lambda: fk.reward(len, kind=value),
        lambda: fk.reward(len, on_error=value),
        lambda: fk.json_schema({}, unsupported=value),
        lambda: fk.json_schema({}, whitespace=value),
        lambda: fk.length(1, unit=value),
        lambda: fk.sql(value),
        lambda: fk.python(value),
        lambda: fk.process_reward(len, every="word", total=value),
    ):
        with pytest.raises(ArgumentError):
            call()


def test_an_array_without_dimensions_is_no_list() -> None:
    for none in (np.array(1), torch.tensor(1.0), "ab", b"ab", bytearray(b"a"), {"a": 1}, None, 3):
        assert as_list(none) is None
    assert as_list(np.array([1, 2])) == [1, 2] and as_list(iter("ab")) == ["a", "b"] and as_list(range(2)) == [0, 1]
    for call in (fk.choices, fk.phrases, fk.tokens, fk.mixture, fk.ensemble, fk.wfsa):
        with pytest.raises(ArgumentError):
            call(torch.tensor(1.0))


@pytest.mark.parametrize("given", ["a", None, object(), math.nan])
def test_a_parameter_of_a_distribution_that_is_no_number_is_refused_where_it_is_given(given) -> None:
    for make in (fk.Bernoulli, fk.Geometric, lambda p: fk.Normal(p, 1), lambda p: fk.Uniform(p, 1)):
        with pytest.raises(ArgumentError):
            make(given)
    with pytest.raises(ArgumentError):
        fk.Categorical(given).draw(0.5)


def test_a_value_that_cannot_be_compared_is_outside_of_the_support() -> None:
    for value in (np.array([1, 2]), torch.zeros(2), object(), None):
        assert fk.Bernoulli(0.5).log_prob(value) == fk.Categorical({"a": 1, "b": 1}).log_prob(value) == -math.inf
    assert fk.Categorical({"a": 1, 2: 1}).log_prob(2) == pytest.approx(math.log(0.5))
    assert (
        fk.Geometric(0.5).log_prob(3) == pytest.approx(3 * math.log(0.5))
        and fk.Geometric(0.5).log_prob(1.5) == -math.inf
    )


class _Faulty:
    """Raises whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def _fail(self, *_: Any) -> Any:
        raise KeyError("a fault of the user's")

    __iter__ = __len__ = __bool__ = __eq__ = __hash__ = __float__ = __index__ = __repr__ = __fspath__ = _fail  # type: ignore[assignment]


def test_an_object_that_raises_is_no_number_word_or_path() -> None:
    value = _Faulty()
    assert as_whole(value) is None and as_real(value) is None and as_bool(value) is None and not is_word(value, ["a"])
    for read in (lambda: read_flag("packed", value), lambda: read_path("path", value), lambda: as_list(value)):
        with pytest.raises(ArgumentError, match="_Faulty object"):
            read()


def test_lists_and_dicts_that_raise_as_they_are_read_are_refused() -> None:
    def fail() -> Any:
        yield 1
        raise OSError("gone")

    class Listed(list):
        def __iter__(self) -> Any:
            raise OSError("gone")

    class Named(dict):
        items = Listed.__iter__

    for read in (lambda: as_list(fail()), lambda: as_sequence(Listed()), lambda: as_dict(Named())):
        with pytest.raises(ArgumentError, match=r"OSError\('gone'\)"):
            read()


def test_a_list_is_what_its_iterator_gives_whatever_its_length_is_said_to_be() -> None:
    class Lies(list):
        def __len__(self) -> int:
            return -1

    assert as_list(Lies([1, 2])) == as_sequence(Lies([1, 2])) == [1, 2]
    assert as_sequence("ab") is as_sequence({1, 2}) is as_sequence(iter([1])) is as_dict([("a", 1)]) is None


@pytest.mark.parametrize("value", [np.ma.masked, np.ma.array(1.0, mask=True), np.ma.array([2], mask=[True])])
def test_a_number_that_is_masked_is_none(value) -> None:
    assert as_real(value) is as_whole(value) is as_bool(value) is None
    assert as_real(np.ma.array([2.0], mask=[False])) == 2.0


@pytest.mark.parametrize(
    "value",
    [torch.tensor(2, device="meta"), torch.ones(1).to_sparse(), np.zeros(1, dtype=[("a", int)])[0],
     np.zeros(2, dtype=[("a", int)]), torch.zeros(2, device="meta")],
    ids=repr,
)  # fmt: skip
def test_a_tensor_or_array_without_numbers_is_none(value) -> None:
    assert as_whole(value) is as_bool(value) is None
