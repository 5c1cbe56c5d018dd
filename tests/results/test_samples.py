"""Samples of every kind: equal ones are taken together, and what a terminal would obey is shown instead."""

from __future__ import annotations

import io
import json
import math
from collections import namedtuple
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import pydantic
import pytest

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.programs import Categorical, program
from feynkac.results.text import print_text
from tests.results.test_result import result


class Person(pydantic.BaseModel):
    name: str
    tags: list[Any] = []


@dataclass
class Point:
    x: Any
    note: str = field(default="", compare=False)


@dataclass(frozen=True)
class Frozen:
    x: Any


Pair = namedtuple("Pair", "a b")


class Custom:
    """An object with an equality and no hash."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Custom) and other.x % 2 == self.x % 2


SAMPLES = [
    ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, {"a": 1, "b": [3]}),
    ([1, [2, "x"]], [1, [2, "x"]], [1, [2, "y"]]),
    ((1, [2]), (1, [2]), (1, [3])),
    ({1, 2}, {2, 1}, {1}),
    (Person(name="Ada", tags=[1]), Person(name="Ada", tags=[1]), Person(name="Ada", tags=[2])),
    (Point([1], "one"), Point([1], "two"), Point([2])),
    (Frozen((1,)), Frozen((1,)), Frozen([1])),
    (Pair(1, [2]), Pair(1, [2]), (1, [2])),
    (Custom(2), Custom(4), Custom(3)),
    (np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([1.0, 3.0])),
    (np.array([1], object), np.array([1], object), np.array([1.0], object)),
    (np.array([0.0, math.nan]), np.array([-0.0, math.nan]), np.array([1.0, math.nan])),
    (math.nan, float("nan"), 0.0),
    (Decimal("NaN"), Decimal("NaN"), Decimal(1)),
    (complex(math.nan, 1), complex(math.nan, 1), complex(math.nan, 2)),
    ({"t": np.array([1, 2])}, {"t": np.array([1, 2])}, {"t": np.array([[1, 2]])}),
    (Decimal("1.0"), Decimal("1.00"), 1.0),
]


@pytest.mark.parametrize("samples", SAMPLES, ids=lambda samples: type(samples[0]).__name__)
def test_equal_samples_are_taken_together_and_others_are_not(samples, capsys) -> None:
    one, same, other = samples
    steered = result(samples=[one, other, same, other], log_weights=np.log([0.2, 0.3, 0.4, 0.1]))
    posterior = steered.posterior()
    assert list(posterior.values()) == pytest.approx([0.6, 0.4]) and len(posterior) == 2
    assert posterior[same] == pytest.approx(0.6) and posterior[other] == pytest.approx(0.4)
    assert steered.best is one and next(iter(posterior)) is one
    steered.show()
    assert " 60.0%  " in capsys.readouterr().out


def test_one_true_and_one_point_zero_are_three_samples() -> None:
    steered = result(samples=[1, True, 1.0, np.int64(1)], log_weights=np.log([0.1, 0.2, 0.4, 0.3]))
    shares = steered.posterior()
    assert [(type(sample), shares[sample]) for sample in (1, True, 1.0)] == [
        (int, pytest.approx(0.4)), (bool, pytest.approx(0.2)), (float, pytest.approx(0.4)),
    ]  # fmt: skip
    nested = result(samples=[[1], [True], [1.0], ["1"]], log_weights=np.log([0.1, 0.2, 0.3, 0.4]))
    assert len(nested.posterior()) == 4 and nested.posterior()[[True]] == pytest.approx(0.2)


def test_a_posterior_of_what_has_a_hash_is_a_dict() -> None:
    assert type(result().posterior()) is dict
    lists = result(samples=[[1], [2], [1], [3]]).posterior()
    assert [1] in lists and [9] not in lists and lists.get([9]) is None and lists == lists and lists != {}
    with pytest.raises(KeyError):
        lists[[9]]
    assert repr(result(samples=[[1]] * 4).posterior()) == "{[1]: 1.0}"


@pytest.mark.parametrize("made", ["{'side': x}", "[x, [x]]", "(x, [x])", "Person(name=x)", "Point(x)"])
def test_a_program_may_return_any_object(made, tmp_path) -> None:
    @program
    def flips(p):
        return eval(made, globals(), {"x": p.sample(Categorical({"heads": 1, "tails": 3}))})

    steered = fk.steer(flips(), particles=64, seed=0)
    assert len(steered.posterior()) == 2 and sum(steered.posterior().values()) == pytest.approx(1.0)
    steered.to_json(tmp_path / "result.json")
    held = json.loads((tmp_path / "result.json").read_text())["samples"]
    assert len(held) == 64 and len({json.dumps(sample) for sample in held}) == 2
    assert len(fk.Result.from_json(tmp_path / "result.json").posterior()) == 2


def test_no_draws_are_an_empty_list() -> None:
    assert result().sample(0) == [] and len(result().sample(np.int64(3), seed=0)) == 3
    for k in (-1, 1.0, True, "2"):
        with pytest.raises(fk.ArgumentError, match="sample: k is"):
            result().sample(k)


# --- terminals


OBEYED = ["\x1b[31m", "\x1b]8;;http://x\x07", "\r", "\x9b2J", "\x00", "\b", "\u202e", "\u2066", "\ud83d", "\u2028"]


@pytest.mark.parametrize("text", OBEYED, ids=ascii)
def test_what_a_terminal_would_obey_is_shown_escaped(text, capsys) -> None:
    shown = result(samples=[f"a{text}b", "c", f"a{text}b", {"k": text}], warnings=[f"look {text} here"])
    shown.show()
    printed = capsys.readouterr().out
    assert text not in printed and printed.isascii() is False  # the bars
    assert f"a{text.encode('unicode_escape').decode()}b" in printed
    assert text not in shown.summary().splitlines()[0]


def test_texts_of_all_scripts_are_shown_as_they_are(capsys) -> None:
    for text in ("naïve", "漢字", "می\u200cخواهم", "👩\u200d🚀", "tab\\t"):
        result(samples=[text, "y", text, "z"]).show()
        assert text in capsys.readouterr().out


def test_a_terminal_that_lacks_a_character_gets_its_name() -> None:
    held = io.BytesIO()
    stream = io.TextIOWrapper(held, encoding="ascii")
    print_text("é ▁\n\x1b", file=stream)
    stream.flush()
    assert held.getvalue() == b"\\xe9 \\u2581\n\\x1b\n"


class RaisesWhereEqual:
    def __eq__(self, other: object) -> bool:
        raise ValueError


class HasNoHash:
    def __hash__(self) -> int:
        raise ValueError


class HasNoText:
    def __repr__(self) -> str:
        raise ValueError


@pytest.mark.parametrize("make", [RaisesWhereEqual, HasNoHash, HasNoText, lambda: 10**5_000, lambda: 10**500])
def test_samples_that_cannot_be_compared_or_written_are_shown_all_the_same(make, tmp_path, capsys) -> None:
    @program
    def odd(p):
        p.sample(fk.Bernoulli(0.5))
        return make()

    found = fk.steer(odd(), particles=4, seed=0)
    found.show()
    assert found._repr_html_() and len(found.texts) == 4
    assert sum(found.posterior().values()) == pytest.approx(1.0)
    assert len(found.posterior()) == (1 if isinstance(found.best, int) else 4)
    found.to_html(tmp_path / "odd.html")
    with suppress(ArgumentError):  # what JSON does not know is refused by name
        found.to_json(tmp_path / "odd.json")


@pytest.mark.parametrize("kind", [int, str, RaisesWhereEqual])
def test_classes_are_samples_like_others(kind) -> None:
    assert dict(result(samples=[kind, kind, float], log_weights=np.zeros(3)).posterior()) == {kind: 2 / 3, float: 1 / 3}
