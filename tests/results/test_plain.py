"""What a file holds of samples of all kinds, and what comes back."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import uuid
from collections import OrderedDict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np
import pydantic
import pytest

import feynkac as fk
from feynkac.results.plain import make_plain


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)


class Level(enum.IntEnum):
    LOW = 1


class Mood(enum.StrEnum):
    CALM = "calm"


@dataclasses.dataclass
class Point:
    x: float
    colour: Colour


class Inner(pydantic.BaseModel):
    when: datetime.datetime
    colour: Colour = Colour.RED


class Person(pydantic.BaseModel):
    name: str
    born: datetime.date
    money: Decimal
    inner: list[Inner]
    tags: set[str]


Pair = namedtuple("Pair", "a b")
NOON = datetime.datetime(2026, 1, 2, 12, 0, tzinfo=datetime.UTC)
PERSON = Person(name="Ada", born=NOON.date(), money=Decimal("1.50"), inner=[Inner(when=NOON)], tags={"x"})
KINDS = [
    (Colour.RED, "red"), (Colour.PAIR, [1, 2]), (Level.LOW, 1), (Mood.CALM, "calm"),
    (NOON, "2026-01-02T12:00:00+00:00"),
    (NOON.date(), "2026-01-02"), (NOON.time(), "12:00:00"), (datetime.timedelta(hours=1), "1:00:00"),
    (Decimal("0.10"), "0.10"), (Fraction(1, 3), "1/3"), (uuid.UUID(int=0), str(uuid.UUID(int=0))), (1j, "1j"),
    (PurePosixPath("a/b"), "a/b"), ({"b", "a"}, ["a", "b"]), (frozenset({2, 10, 1}), [1, 10, 2]),
    (np.float32(0.5), 0.5), (np.int64(3), 3), (np.bool_(True), True), (np.str_("s"), "s"), (np.arange(3), [0, 1, 2]),
    (np.array(["a", None], dtype=object), ["a", None]), (np.datetime64("2026-01-02"), "2026-01-02"),
    ((1, (2,)), [1, [2]]), (Pair(1, 2), [1, 2]), (deque([1]), [1]), (OrderedDict(a=1), {"a": 1}),
    (MappingProxyType({"a": {1}}), {"a": [1]}), ({1: "a", None: "b", 2.5: "d"}, {"1": "a", "null": "b", "2.5": "d"}),
    ({Colour.RED: Colour.RED}, {"red": "red"}), (math.inf, "inf"), ([math.nan], ["nan"]), (b"a\xff", "a\\xff"),
    (Point(1.0, Colour.RED), {"x": 1.0, "colour": "red"}),
    (
        PERSON,
        {
            "name": "Ada", "born": "2026-01-02", "money": "1.50", "tags": ["x"],
            "inner": [{"when": "2026-01-02T12:00:00Z", "colour": "red"}],
        },
    ),
]  # fmt: skip


def make_result(samples: list[Any]) -> fk.Result:
    history = fk.History([1.0], [0.0], [1], [], [[0]])
    n = len(samples)
    return fk.Result(samples, np.full(n, -math.log(n)), 0.0, None, history, fk.Timing(0.0, 0.0, 0.0))


@pytest.mark.parametrize(("sample", "plain"), KINDS, ids=lambda value: type(value).__name__)
def test_a_sample_of_any_kind_is_written_and_comes_back_plain(sample: Any, plain: Any, tmp_path) -> None:
    make_result([sample, {"in": [sample]}]).to_json(tmp_path / "result.json")
    assert fk.Result.from_json(tmp_path / "result.json").samples == [plain, {"in": [plain]}]


def test_the_order_of_a_set_is_the_same_in_every_process() -> None:
    assert make_plain({"b", "a", 1}) == [1, "a", "b"]


def hold_itself() -> list[Any]:
    whole: list[Any] = []
    whole.append(whole)
    return whole


@pytest.mark.parametrize(
    "sample",
    [object(), lambda: 0, {(1, 2): 3}, int, hold_itself(), object],
    ids=["object", "function", "tuples for keys", "type", "itself", "class"],
)
def test_what_json_cannot_hold_is_refused_and_the_old_file_stays(sample: Any, tmp_path) -> None:
    path = tmp_path / "result.json"
    make_result(["old"]).to_json(path)
    with pytest.raises(fk.ArgumentError, match="cannot be written as JSON"):
        make_result([sample]).to_json(path)
    assert fk.Result.from_json(path).samples == ["old"]


def test_a_path_that_cannot_be_written_or_read_is_an_argument_error(tmp_path) -> None:
    with pytest.raises(fk.ArgumentError, match="cannot be written"):
        make_result(["x"]).to_json(tmp_path / "missing" / "result.json")
    with pytest.raises(fk.ArgumentError, match="cannot be read"):
        fk.Result.from_json(tmp_path / "missing.json")
