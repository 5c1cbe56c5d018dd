"""Constraints through the front door: what a run gives back, and what it says where no text meets them all."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pydantic
import pytest

import feynkac as fk


class Box(pydantic.BaseModel):
    a: int

    @pydantic.field_validator("a")
    @classmethod
    def check(cls, a: int) -> int:
        if a == 11:
            raise ValueError("not eleven")
        return a


PARTS = ("{", "}", '"a"', ":", "1", " ", ",", "\n", '{"a":')


@pytest.fixture(scope="module")
def lm(tiny_lm: Any) -> Any:
    return tiny_lm(*PARTS, seed=2)


def test_a_class_gives_instances(lm: Any) -> None:
    result = fk.steer(lm.prompt("1", max_tokens=8), fk.json_schema(Box), particles=64, seed=0)
    values = result.parsed()
    assert all(isinstance(value, Box) and value.a != 11 for value in values if value is not None)
    assert [json.loads(x) for x, v in zip(result.samples, values, strict=True) if v] == [
        v.model_dump() for v in values if v
    ]
    assert {value.a for value in values if value} >= {1}


@pytest.mark.parametrize("limit", [4, 6, 12])
@pytest.mark.parametrize("whitespace", ["compact", " ?", "flexible"])
def test_a_tight_limit_does_not_kill_json(lm: Any, limit: int, whitespace: str) -> None:
    """The model draws blanks and line breaks as readily as anything else."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    constraint = fk.json_schema(schema, whitespace=whitespace)
    result = fk.steer(lm.prompt("1", max_tokens=limit), constraint, particles=32, seed=0)
    assert (result.weights > 0).all()
    for text in result.samples:
        assert json.loads(text)["a"] % 10 == 1


def test_checked_schemas_weigh_whole_texts(lm: Any) -> None:
    """The evidence under "check" is that under "ignore", times the share of what is valid."""
    schema = {"enum": [1, 11], "not": {"const": 11}}
    task = lm.prompt("1", max_tokens=2)
    checked = fk.steer(task, fk.json_schema(schema), particles=512, seed=0)
    ignored = fk.steer(task, fk.json_schema(schema, unsupported="ignore"), particles=512, seed=0)
    assert set(ignored.posterior()) == {"1", "11"} and set(checked.posterior()) == {"1"}
    share = ignored.posterior()["1"]
    z, n = np.exp(checked.log_evidence - ignored.log_evidence), 512
    assert abs(z - share) < 5.0 * np.sqrt(share * (1 - share) / n) * 2.0


def test_a_span_of_a_checked_schema_is_checked(lm: Any) -> None:
    @fk.program
    def pick(p: Any, lm: Any, unsupported: Any) -> str:
        schema = fk.json_schema({"enum": [1, 11], "not": {"const": 11}}, unsupported=unsupported)
        return p.sample(lm.context("1").gen(schema, max_tokens=2))

    assert set(fk.steer(pick(lm, "check"), particles=64, seed=0).posterior()) == {"1"}
    assert set(fk.steer(pick(lm, "ignore"), particles=64, seed=0).posterior()) == {"1", "11"}


def test_a_class_is_taken_in_a_program(lm: Any) -> None:
    @fk.program
    def pick(p: Any, lm: Any) -> str:
        return p.sample(lm.context("1").gen(json_schema=Box, max_tokens=6))

    for text in fk.steer(pick(lm), particles=16, seed=0).posterior():
        Box.model_validate_json(text)


@pytest.mark.parametrize(
    ("factors", "named"),
    [
        ([fk.choices(["a11", "1"]), fk.regex(" a11")], r"meets both \"choices.*\" and \"regex\(' a11'\)\""),
        ([fk.regex("1*"), fk.regex("1{2}|a{2}"), fk.regex("a*1?"), fk.length(max=3)], "meets all of"),
        ([fk.regex("1{1,3}"), fk.length(min=5, unit="char")], "meets both 'regex"),
    ],
)
def test_constraints_that_no_text_meets_are_named(lm: Any, factors: list[Any], named: str) -> None:
    with pytest.raises(fk.AllParticlesDied, match=named):
        fk.steer(lm.prompt("1", max_tokens=4), *factors, particles=8, seed=0)


def test_constraints_that_some_text_meets_are_not_blamed(lm: Any) -> None:
    with pytest.raises(fk.AllParticlesDied) as error:
        fk.steer(lm.prompt("1", max_tokens=2), fk.regex("1{3}") * fk.regex("1*"), particles=8, seed=0)
    assert "meets" not in str(error.value)
