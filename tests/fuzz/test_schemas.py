"""JSON schemas of every shape, right and wrong, and texts drawn under them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from guard import fuzz, guarded
from hypothesis import given, strategies as st
from values import JSON

import feynkac as fk

TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
OF_SCHEMAS = (
    "not",
    "items",
    "contains",
    "additionalProperties",
    "propertyNames",
    "if",
    "then",
    "else",
    "additionalItems",
)
OF_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
OF_DICTS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
NUMBERS = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength",
    "minItems", "maxItems",
    "minProperties", "maxProperties", "minContains", "maxContains",
)  # fmt: skip
WORDS = st.sampled_from(["a", "b", "", "~", "/", "a~1b", "é", "\0", "\ud800", "$ref", "type", "x-guidance"]) | st.text(
    max_size=3
)
NUMBER = (
    st.sampled_from([0, 1, 2, -1, 0.5, 1e308, 1e-320, 10**30, -(10**400), True, None, "1"])
    | st.integers()
    | st.floats()
)
PATTERNS = st.sampled_from(
    ["a*", "^a$", "(", "[", "\\d+", "(?=a)", "a{999999}", "(a*)*", "\\p{L}", "\ud800", ""]
) | st.text(max_size=6)
FORMATS = st.sampled_from(
    ["date", "date-time", "email", "uuid", "ipv4", "uri", "regex", "nonsense", "", "json-pointer", 1, None]
)
REFS = st.sampled_from(
    ["#", "#/$defs/a", "#/properties/a", "#/nowhere", "http://x/y", "#a", "", "%", "#/%00", "#/items/0", 1]
)


def _keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Some keywords, most with what they take, some with anything."""
    one = st.one_of(
        st.tuples(st.just("type"), st.sampled_from([*TYPES, "any", "", None, 1]) | st.lists(st.sampled_from(TYPES),
        max_size=3)),
        st.tuples(st.sampled_from(OF_SCHEMAS), inner | st.booleans()),
        st.tuples(st.sampled_from(OF_LISTS), st.lists(inner | st.booleans(), max_size=3)),
        st.tuples(st.sampled_from(OF_DICTS), st.dictionaries(WORDS, inner | st.booleans(), max_size=3)),
        st.tuples(st.sampled_from(NUMBERS), NUMBER),
        st.tuples(st.just("required"), st.lists(WORDS, max_size=3)),
        st.tuples(st.just("enum"), st.lists(JSON, max_size=3)),
        st.tuples(st.just("const"), JSON),
        st.tuples(st.just("pattern"), PATTERNS),
        st.tuples(st.just("format"), FORMATS),
        st.tuples(st.sampled_from(["$ref", "$dynamicRef", "$id", "$anchor", "$dynamicAnchor"]), REFS),
        st.tuples(st.sampled_from(["uniqueItems", "unevaluatedProperties", "unevaluatedItems", "nullable"]),
        st.booleans()),
        st.tuples(WORDS, JSON),
        st.tuples(st.sampled_from([*OF_SCHEMAS, *OF_LISTS, *OF_DICTS, *NUMBERS, "type", "required", "enum",
        "x-guidance"]), JSON),
    )  # fmt: skip
    return st.lists(one, max_size=4).map(lambda pairs: dict(pairs))


SCHEMAS = st.recursive(_keywords(st.just({"type": "string"})), _keywords, max_leaves=6)
LETTERS = [*'{}[]":,0123456789.-+eEtrufalsn \\/ab', "\n", '{"', '":']


@pytest.fixture(scope="session")
def json_lm(tiny_lm):
    return tiny_lm(*LETTERS)


@fuzz(share=0.2, sample=25)
@given(st.data())
def test_schemas_mask_or_are_refused(json_lm, data) -> None:
    schema = data.draw(SCHEMAS, label="schema")
    given_as = data.draw(st.sampled_from(["dict", "text"]))
    options = {"unsupported": data.draw(st.sampled_from(["check", "refuse", "ignore"]))}
    with guarded():
        constraint = fk.json_schema(schema if given_as == "dict" else json.dumps(schema), **options)
        result = fk.steer(json_lm.prompt("a", max_tokens=6), constraint, particles=2, seed=0, on_death="return")
        if result.log_evidence > float("-inf"):
            repr(result.parsed() if result.complete else None)


@fuzz(share=0.02, sample=10)
@given(st.text(max_size=60) | st.text('{}[]":, truefalsnl0123.-e\\', max_size=30))
def test_texts_that_are_no_schema_are_refused(text) -> None:
    with guarded():
        fk.json_schema(text)


@pytest.mark.parametrize("make", [lambda inner: {"items": inner}, lambda inner: {"not": inner}, lambda inner: [inner]])
@pytest.mark.parametrize("depth", [100, 400, 100_000])
def test_schemas_nested_deeply_are_refused(make, depth) -> None:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = make(schema)
    with guarded():
        fk.json_schema(schema)
    if depth <= 5_000:
        return
    with guarded():
        fk.json_schema('{"items":' * depth + "{}" + "}" * depth)
