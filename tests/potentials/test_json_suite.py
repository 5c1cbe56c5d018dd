"""JSON schemas against the official test-suite: drafts 7 and 2020-12, required tests, by keyword."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent / "json_suite" / "judging.py"


@pytest.fixture(scope="module")
def judging() -> Any:
    spec = importlib.util.spec_from_file_location("judging", HERE)
    assert spec is not None and spec.loader is not None
    module = sys.modules["judging"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_invalid_is_accepted(judging) -> None:
    assert [verdict for verdict in judging.judge_all() if verdict.wrong] == []


def test_what_is_valid_is_accepted_but_for_declared_limits(judging) -> None:
    for verdict in judging.judge_all():
        assert all(map(judging.explain_lost, verdict.lost)), verdict


def test_what_is_refused_is_refused_by_a_declared_limit(judging) -> None:
    for verdict in judging.judge_all():
        assert not verdict.reason or judging.explain_refusal(verdict.reason), verdict


def test_the_table_of_the_documentation_is_what_the_suite_says(judging) -> None:
    assert (Path(__file__).parents[2] / "docs" / "json_schema.md").read_text() == judging.write_table()


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"type": "array", "maxItems": 1.0}, [1], [1, 2]),
        ({"patternProperties": {"a": {"type": "integer"}, "aa": {"maximum": 5}}}, {"aa": 3}, {"aa": 7}),
        ({"multipleOf": 12345678899999998, "type": "integer"}, 0, 3),
    ],
)
def test_what_the_engine_refuses_is_checked(judging, schema: Any, valid: Any, invalid: Any) -> None:
    constraint = judging.json_schema(schema, whitespace="compact")
    assert judging.accepts(constraint, valid) and not judging.accepts(constraint, invalid)


def test_what_stands_beside_a_reference_is_ignored_where_the_draft_says_so(judging) -> None:
    schema = {"definitions": {"a": {"type": "array"}}, "properties": {"x": {"$ref": "#/definitions/a", "maxItems": 1}}}
    for draft, allowed in (("draft7", True), ("draft2020-12", False)):
        constraint = judging.json_schema({"$schema": judging.DRAFTS[draft], **schema}, whitespace="compact")
        assert judging.accepts(constraint, {"x": [1, 2]}) == allowed
        assert judging.accepts(constraint, {"x": [1]})
