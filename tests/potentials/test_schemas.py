"""JSON schemas: what is masked, what is checked on whole texts, what is refused where, and what is still to come."""

from __future__ import annotations

import copy
import dataclasses
import enum
import importlib.metadata
import importlib.util
import ipaddress
import json
import pathlib
import pickle
import random
import re
import sys
import time
import typing
import warnings
from fractions import Fraction
from typing import Any

import jsonschema
import numpy as np
import pydantic
import pytest
from typing_extensions import TypedDict

from feynkac.base.errors import ArgumentError, ConstraintError, FeynkacError
from feynkac.base.masks import mask_within, unpack
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials import json_schema
from feynkac.potentials.constraints.schemas.checks import SchemaCheck, is_checked_format
from feynkac.potentials.constraints.schemas.outline import build_outline

BYTES = Vocabulary((*(bytes([b]) for b in range(256)), b""), (256,))


def accepts(constraint: Any, text: str, population: Any) -> bool:
    """By the potential itself, over the bytes of a text."""
    return constraint.final(population([list(text.encode())], BYTES), np.array([0]))[0] == 0.0


def masked(constraint: Any, text: str) -> bool:
    """By the automaton alone."""
    automaton = constraint.automaton(BYTES)
    states = np.array([automaton.start])
    for byte in text.encode():
        states = automaton.advance(states, np.array([byte]))
    return bool(automaton.accepts(states)[0])


ONE_OF = {
    "oneOf": [
        {"type": "object", "properties": {"k": {"const": "circle"}, "r": {"type": "number"}}},
        {"type": "object", "properties": {"k": {"const": "square"}, "s": {"type": "number"}}},
    ]
}
CHECKED = [
    ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "[1, 2]", "[1, 1]", "#/uniqueItems"),
    ({"not": {"const": 3}}, "4", "3", "#/not"),
    ({"allOf": [{"type": "integer"}, {"not": {"minimum": 5}}]}, "4", "6", "#/allOf/1/not"),
    ({"type": "object", "dependencies": {"a": ["b"]}}, '{"b":1}', '{"a":1}', "#/dependencies"),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, '{"a":1,"b":2}', '{"a":1}', "#/dependentRequired"),
    (ONE_OF, '{"k":"circle","r":1}', "{}", "#/oneOf"),
    ({"if": {"type": "integer"}, "then": {"minimum": 3}}, "4", "2", "#/if, #/then"),
    ({"type": "object", "propertyNames": {"enum": ["a"]}}, '{"a":1}', '{"b":1}', "#/propertyNames"),
    ({"type": "array", "contains": {"const": 1}}, "[0,1]", "[0]", "#/contains"),
    ({"type": "string", "pattern": "^a(?=b)"}, '"abc"', '"ac"', "#/pattern"),
    ({"type": "object", "patternProperties": {"^(?!x)": {}}, "additionalProperties": False}, '{"a":1}', '{"x":1}',
     "#/patternProperties"),
    ({"properties": {"not": {"not": {"const": 1}}}}, '{"not":2}', '{"not":1}', "#/properties/not/not"),
    ({"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 1}, '{"b":1}', "{}", "#/minProperties"),
    ({"type": "object", "allOf": [{"properties": {"a": {}, "b": {}}}, {"maxProperties": 1}]}, '{"b":1}',
     '{"a":1,"b":1}', "#/allOf/1/maxProperties"),
    ({"type": "object", "allOf": [{"patternProperties": {key: {"const": key}}} for key in "ab"]},
     '{"b":"b"}', '{"ab":"b"}', "#/allOf/0/patternProperties, #/allOf/1/patternProperties"),
    ({"required": ["k"], "anyOf": [{"$ref": "#/$defs/t"}], "$defs": {"t": {"type": "object", "properties": {
        "k": {"type": "integer"}, "l": {"required": ["k"], "anyOf": [{"$ref": "#/$defs/t"}, {"type": "null"}]},
     }}}}, '{"k":1,"l":null}', '{"k":1,"l":{}}', "#/required, #/$defs/t/properties/l/required"),
    ({"type": "object", "properties": {"a": {"allOf": [{"$ref": "#"}, {"required": ["b"]}]}}}, '{"a":{"b":1}}',
     '{"a":{}}', "#/properties/a/allOf"),
    ({"type": "object", "properties": {"a": {"type": "object", "anyOf": [{"$ref": "#"}], "properties": {"b": {}}}}},
     '{"a":{"a":{}}}', '{"a":{"a":1}}', "#/properties/a/anyOf"),
    ({"type": "object", "properties": {"a": {"type": "object"}},
      "patternProperties": {".*": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}, '{"a":{"a":{}}}', '{"a":{"a":1}}',
     "#/patternProperties"),
    ({"$ref": "#/parts/a", "parts": {"a": {"items": {"$ref": "#/parts/a"}, "uniqueItems": True}}}, "[[], [[]]]",
     "[[[], []]]", "#/$defs/~00/uniqueItems"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "right", "wrong", "place"), CHECKED, ids=[case[3] for case in CHECKED])
def test_what_cannot_be_masked_is_checked_on_whole_texts(
    population: Any, schema: Any, right: str, wrong: str, place: str
) -> None:
    before = copy.deepcopy(schema)
    constraint = json_schema(schema)
    assert masked(constraint, right) and masked(constraint, wrong)
    assert accepts(constraint, right, population) and not accepts(constraint, wrong, population)
    assert schema == before
    with pytest.raises(ConstraintError, match=re.escape(f"unsupported keyword {place}")):
        json_schema(schema, unsupported="refuse")
    assert accepts(json_schema(schema, unsupported="ignore"), wrong, population)
    for copied in (pickle.loads(pickle.dumps(constraint)), copy.deepcopy(constraint)):
        assert accepts(copied, right, population) and not accepts(copied, wrong, population)


@pytest.mark.parametrize("name", ["path", "url", "host-name", "topic", "nonsense"])
def test_an_unknown_format_is_an_annotation_and_a_warning(population: Any, name: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": name}}}
    with pytest.warns(UserWarning, match=f"'{name}' at #/properties/a/format"):
        constraint = json_schema(schema)
    assert accepts(constraint, '{"a": "x"}', population)
    with pytest.raises(ConstraintError, match="#/properties/a/format"):
        json_schema(schema, unsupported="refuse")


FORMATS = (
    "date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4", "ipv6", "uri",
    "uri-reference", "iri", "iri-reference", "uuid", "uri-template", "json-pointer", "relative-json-pointer", "regex",
)  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_of_the_specification_is_enforced_or_what_is_missing_is_named(name: str) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        json_schema({"type": "string", "format": name})
    known = not said or is_checked_format(name)
    assert known or "is not enforced: install what checks it, pip install 'jsonschema[format-nongpl]'" in str(
        said[0].message
    )
    assert not any("unknown" in str(warning.message) for warning in said)


def test_what_is_to_be_installed_for_formats_exists() -> None:
    assert "format-nongpl" in importlib.metadata.metadata("jsonschema").get_all("Provides-Extra", [])


def test_known_formats_are_enforced(population: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dates = json_schema({"type": "string", "format": "date"})
        patterns = json_schema({"type": "string", "format": "regex"})
    assert masked(dates, '"2020-02-01"') and not masked(dates, '"2020-2-1"')
    assert accepts(patterns, '"a+"', population) and not accepts(patterns, '"a("', population)


IMPOSSIBLE = {"type": "object", "properties": {"a": {}}, "required": ["b"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (IMPOSSIBLE, "at #:"),
        ({"type": "object", "properties": {"x": IMPOSSIBLE}, "required": ["x"]}, "at #/properties/x:"),
        ({"type": "array", "items": {"anyOf": [IMPOSSIBLE]}, "minItems": 1}, "at #/items/anyOf/0:"),
        ({"type": "object", "properties": {"x/y": {"enum": []}}, "required": ["x/y"]}, "at #/properties/x~1y:"),
    ],
)  # fmt: skip
def test_a_schema_that_no_value_meets_is_refused_with_the_place(schema: Any, place: str) -> None:
    with pytest.raises(ConstraintError, match=re.escape(place)):
        json_schema(schema)


@pytest.mark.parametrize(
    ("schema", "meant"),
    [
        ({"type": "string", "nullable": True}, '"type": ["string", "null"]'),
        ({"properties": {"a": {"$ref": "#/$defs/b", "nullable": True}}, "$defs": {"b": {}}}, "#/properties/a/nullable"),
        ({"type": "object", "propertis": {}}, "#/propertis is no keyword of JSON Schema; did you mean 'properties'?"),
        ({"type": "object", "properties": {"a": {"minlength": 3}}}, "#/properties/a/minlength"),
        ({"type": "object", "requried": ["a"]}, "did you mean 'required'?"),
        ({"items": {"typ": "string"}}, "#/items/typ"),
        ({"name": "search", "description": "d", "parameters": {"type": "object"}}, "description['parameters']"),
        ({"type": "function", "function": {"name": "f", "parameters": {}}}, "['function']['parameters']"),
        ({"type": "function", "name": "f", "parameters": {"type": "object"}}, "description['parameters']"),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}, "['json_schema']['schema']"),
        ({"type": "json_schema", "name": "a", "schema": {"type": "object"}}, "description['schema']"),
        ({"type": "json_object"}, 'any object is {"type": "object"}'),
        ({"properties": {"a": {"type": "string", "required": True}}}, 'write "required": ["a"] beside'),
        ({"properties": {"a/b": {"required": True}}}, "#/properties/a~1b/required: whether a property must be there"),
        (
            {"properties": {"a": {"optional": True}}, "required": ["a"]},
            "#/properties/a/optional: whether a property must be there",
        ),
        ({"$ref": "#/parts/a", "parts": {"a": {"minlength": 3}}}, "#/parts/a/minlength is no keyword"),
        (
            {"type": "integer", "divisibleBy": 2},
            "#/divisibleBy is no keyword of JSON Schema; did you mean 'multip",
        ),
        (
            {"items": {"type": "string", "regex": "a"}},
            "#/items/regex is no keyword of JSON Schema; did you mean 'pat",
        ),
        ({"type": "integer", "min": 2}, "did you mean 'minimum'"),
        ({"type": "string", "choices": ["a"]}, "did you mean 'enum'"),
        ({"name": "answer", "strict": True, "schema": {"type": "object"}}, "description['schema']"),
        ({"name": "string", "age": "integer"}, '{"type": "object", "properties": {...}}'),
        ({"type": "objekt"}, "#/type: 'objekt'"),
        ({"properties": {"a": {"type": "objekt"}}}, "#/properties/a/type: 'objekt'"),
        ({"patternProperties": None}, "#/patternProperties is None; it must be an object of names and schemas"),
        ({"items": {"pattern": ["a"]}}, "#/items/pattern is ['a']; it must be a string"),
        ({"$ref": "#/not", "not": {"type": "null"}, "$defs": []}, "#/$defs is []; it must be an object"),
        ({"not": {"type": "null"}, "$schema": True}, "#/$schema is True; it must be a string"),
        ({"allOf": {"type": "null"}}, "#/allOf is {'type': 'null'}; it must be a list of schemas"),
    ],
)
def test_what_is_no_schema_is_refused_by_what_was_probably_meant(schema: Any, meant: str) -> None:
    with pytest.raises(ConstraintError, match=re.escape(meant)):
        json_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        {"title": "anything", "description": "d"},
        {
            "type": "string",
            "x-order": 1,
            "markdownDescription": "m",
            "enumNames": [],
            "examples": ["a"],
            "nullable": False,
            "required": False,
        },
        {"type": "string", "enum": ["a"], "options": ["A"], "choices": 3},
        {"type": "object", "properties": {"regex": {}, "required": {"type": "boolean"}, "min": {}, "function": {}}},
        {"type": "integer", "minimum": 3, "exclusiveMinimum": True},
        {"type": "object", "properties": {"propertis": {}, "nullable": {}, "typ": {"type": "string"}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {}}, "$ref": "#/definitions/a"},
        {"type": "string", "_format": "date", "@type": "Text", "//": "set aside"},
        {"type": "string", "note": "in two words", "multiple": True},
        {"properties": {"a": {"type": "string", "optional": True}}},
    ],
)
def test_annotations_and_names_of_properties_are_no_mistakes(schema: Any) -> None:
    json_schema(schema)


LONG = "n" * 9000


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "(" * 3000 + "a" + ")" * 3000},
        {"type": "string", "pattern": "(a" * 3000},
        {"patternProperties": {"(a" * 3000: {}}},
        {"type": LONG},
        {LONG: 1},
        {"$ref": f"#/{LONG}"},
        {"properties": {LONG: {"nullable": True}}},
        {"properties": {LONG: {"minimum": "a"}}},
        {"type": "object", "properties": {LONG: False}, "required": [LONG]},
        [LONG],
    ],
)
def test_an_error_is_short_however_long_what_is_wrong_is(schema: Any) -> None:
    with pytest.raises((ConstraintError, ArgumentError)) as error:
        json_schema(schema)
    assert 60 < len(str(error.value)) <= 1510 and str(error.value).startswith("json_schema(")


def test_deep_and_endless_schemas_are_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"items": deep}
    endless: dict[str, Any] = {}
    endless["items"] = endless
    for schema in (deep, endless, '{"items":' * 5000 + "{}" + "}" * 5000, '{"items":' * 90000):
        with pytest.raises(ConstraintError, match=r"nested more than 120 deep|no JSON"):
            json_schema(schema)


@pytest.mark.parametrize("schema", [{"enum": ["\ud800", "a"]}, {"properties": {"\udfff": {}}}, '{"const": "\\ud800"}'])
def test_half_of_a_character_is_refused(schema: Any) -> None:
    with pytest.raises(ConstraintError, match="half of a character"):
        json_schema(schema)


@pytest.mark.parametrize("schema", [{"$dynamicRef": "#x", "$dynamicAnchor": "x"}, {"not": {"$ref": "#/nowhere"}}])
def test_references_that_lead_nowhere_are_refused(schema: Any) -> None:
    with pytest.raises(ConstraintError, match="leads nowhere"):
        json_schema(schema)


def test_hundreds_of_optional_properties_work() -> None:
    schema = {"type": "object", "properties": {f"property_{i}": {"type": "integer"} for i in range(500)}}
    assert masked(json_schema(schema), '{"property_7": 1, "property_499": 3}')


def test_a_grammar_that_would_fail_on_the_way_is_refused_where_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from llguidance import LLParserLimits

    monkeypatch.setattr("llguidance.LLParserLimits", lambda **_: LLParserLimits(max_items_in_row=100))
    schema = {"type": "object", "properties": {f"property_{i}": {"type": "integer"} for i in range(500)}}
    with pytest.raises(ConstraintError, match=r"gave up after '\{'"):
        json_schema(schema)


def test_a_schema_of_megabytes_compiles_soon() -> None:
    """2.3 MB take some 0.7 s; the limit that is stated is two seconds."""
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, row)) for row in rng.integers(97, 123, (40_000, 55))]
    began = time.process_time()
    json_schema({"enum": words}).automaton(BYTES)
    assert time.process_time() - began < 4.0


@pytest.mark.parametrize(
    ("whitespace", "right", "wrong"),
    [
        ("compact", ['{"a":1,"b":[]}'], ['{"a": 1,"b":[]}', '{ "a":1,"b":[]}']),
        ("", ['{"a":1,"b":[]}'], ['{"a": 1,"b":[]}', '{ "a":1,"b":[]}']),
        ("flexible", ['{"a":1,"b":[]}', '{ "a"  :\n\n1 ,\t"b":[ ]  }'], [' {"a":1,"b":[]}']),
        (" {0,2}", ['{"a":  1,"b":[]}'], ['{"a":   1,"b":[]}', '{"a":\n1,"b":[]}']),
        (None, ['{"a": 1, "b": []}', '{\n  "a": 1,\n\t"b": []\n}'], ['{"a":  1,"b":[]}', '{\n\n"a":1,"b":[]}']),
    ],
)
def test_white_space_is_what_was_asked_for(whitespace: str | None, right: list[str], wrong: list[str]) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "array"}},
        "required": ["a", "b"],
    }
    constraint = json_schema(schema) if whitespace is None else json_schema(schema, whitespace=whitespace)
    assert all(masked(constraint, text) for text in right)
    assert not any(masked(constraint, text) for text in wrong)


def test_options_of_the_engine_in_a_schema_are_kept_unless_they_hide_something(population: Any) -> None:
    compact = json_schema({"type": "array", "x-guidance": {"whitespace_flexible": False}})
    assert masked(compact, "[1,2]") and not masked(compact, "[1, 2]")
    for hidden in ("lenient", "coerce_one_of"):
        schema = {"oneOf": [{"type": "integer"}, {"minimum": 0}], "not": {"const": 3}, "x-guidance": {hidden: True}}
        constraint = json_schema(schema)
        assert accepts(constraint, "-1", population)
        assert not accepts(constraint, "1", population) and not accepts(constraint, "3", population)


def test_other_characters_are_no_white_space() -> None:
    for whitespace, problem in (("a?", "only blanks, tabs"), (r"\s", "only blanks"), ("(", "unterminated")):
        with pytest.raises(ConstraintError, match=problem):
            json_schema({}, whitespace=whitespace)
    with pytest.raises(ArgumentError, match="'check', 'refuse', 'ignore'"):
        json_schema({}, unsupported="warn")  # type: ignore[arg-type]


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Person(pydantic.BaseModel):
    name: str
    age: int

    @pydantic.field_validator("age")
    @classmethod
    def check_age(cls, age: int) -> int:
        if age % 2:
            raise ValueError("odd")
        return age


@dataclasses.dataclass
class Point:
    x: int


class Row(TypedDict):
    a: int


@pytest.mark.parametrize(
    ("kind", "right", "value", "wrong"),
    [
        (pathlib.Path, '"a/b"', pathlib.Path("a/b"), "3"),
        (pathlib.PurePosixPath, '"a/b"', pathlib.PurePosixPath("a/b"), "3"),
        (list[pathlib.Path], '["a/b"]', [pathlib.Path("a/b")], "[3]"),
        (pydantic.FilePath, json.dumps(__file__), pathlib.Path(__file__), '"no/such/file"'),
        (pydantic.DirectoryPath, '"."', pathlib.Path(), json.dumps(__file__)),
        (set[int], "[1, 2]", {1, 2}, "[1, 1]"),
        (frozenset[str], '["a"]', frozenset("a"), '["a", "a"]'),
        (dict[Colour, int], '{"red": 1}', {Colour.red: 1}, '{"green": 1}'),
        (re.Pattern, '"a+"', re.compile("a+"), '"a("'),
        (bytes, '"ab"', b"ab", "3"),
        (pydantic.SecretStr, '"ab"', pydantic.SecretStr("ab"), "3"),
        (ipaddress.IPv4Network, '"10.0.0.0/8"', ipaddress.IPv4Network("10.0.0.0/8"), '"10/99"'),
        (pydantic.IPvAnyAddress, '"10.0.0.1"', ipaddress.IPv4Address("10.0.0.1"), '"10.0.0.x"'),
        (pydantic.Base64Str, '"YQ=="', "a", "3"),
        (Person, '{"name": "a", "age": 2}', Person(name="a", age=2), '{"name": "a", "age": 3}'),
        (list[Person], '[{"name": "a", "age": 2}]', [Person(name="a", age=2)], "3"),
        (Point, '{"x": 1}', Point(1), '{"x": 1.5}'),
        (Row, '{"a": 1}', {"a": 1}, "{}"),
        (int | None, "null", None, '"a"'),
    ],
)
def test_a_python_type_is_taken_as_its_schema(population: Any, kind: Any, right: str, value: Any, wrong: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        constraint = json_schema(kind)
    assert accepts(constraint, right, population) and not accepts(constraint, wrong, population)
    assert constraint.read(right) == value


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"const": 2**53 + 1}, [2**53 + 1], [2**53, 2**53 + 2]),
        ({"enum": [-(2**70), "a"]}, [-(2**70), "a"], [-(2**70) - 1, "b"]),
        ({"const": {"a": [2**53 + 1]}}, [{"a": [2**53 + 1]}], [{"a": [2**53]}]),
        ({"type": "integer", "minimum": 2**53 + 1}, [2**53 + 1, 2**60], [2**53, 0]),
        ({"type": "integer", "maximum": -(2**53) - 1}, [-(2**53) - 1], [-(2**53), 0]),
        ({"type": "integer", "exclusiveMinimum": 2**53 + 1}, [2**53 + 2], [2**53 + 1]),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, [2**63 - 1, -(2**63)], [2**63]),
        ({"type": "integer", "minimum": 0, "maximum": 2**64 - 1}, [2**64 - 1, 0], [2**64, -1]),
        ({"type": "number", "maximum": 1.7976931348623157e308}, [5, 1.5], ["a"]),
        ({"type": "integer", "minimum": 10**30}, [10**30], [10**30 - 1]),
        ({"type": "string", "maxLength": 10**30}, ["a"], [1]),
    ],
)
def test_numbers_beyond_those_of_the_engine_mean_what_they_say(
    population: Any, schema: Any, right: list[Any], wrong: list[Any]
) -> None:
    constraint = json_schema(schema, whitespace="compact")
    assert all(accepts(constraint, json.dumps(value, separators=(",", ":")), population) for value in right)
    assert not any(accepts(constraint, json.dumps(value, separators=(",", ":")), population) for value in wrong)


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"not": {"type": "string"}, "properties": {"a": {"$ref": "#/not"}}}, ['{"a":"x"}', "3"], ['{"a":1}', '"x"']),
        ({"oneOf": [{"type": "integer"}, {"type": ["object", "null"]}, {"type": "null"}],
          "properties": {"x": {"$ref": "#/oneOf/0"}}}, ["3", '{"x":1}'], ['{"x":"a"}', "null"]),
        ({"if": {"required": ["a"]}, "then": {"minProperties": 2}, "properties": {"b": {"$ref": "#/then"}}},
         ['{"b":{"x":1,"y":2}}'], ['{"b":{"x":1}}', '{"a":1}']),
        ({"patternProperties": {"^a": {"type": "integer"}, "^.b": {}}, "items": {"$ref": "#/patternProperties/%5Ea"}},
         ["[1]", '{"a":1}'], ['["x"]', '{"a":"x"}']),
    ],
)  # fmt: skip
def test_a_reference_into_what_is_only_checked_stays(
    population: Any, schema: Any, right: list[str], wrong: list[str]
) -> None:
    constraint = json_schema(schema, whitespace="compact")
    assert all(accepts(constraint, text, population) for text in right)
    assert not any(accepts(constraint, text, population) for text in wrong)


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "string", "pattern": r"^a\b"}, ['"a b"'], ['"ab"']),
        ({"type": "string", "pattern": r"^\p{Lu}+$", "not": {"const": "B"}}, ['"A\u00c9"'], ['"a"', '"B"']),
        ({"type": "string", "not": {"pattern": r"^[\P{L}\]\d]"}}, ['"a"'], ['"1"', '"]"']),
        ({"type": "string", "pattern": "^(?<n>[(?<n>]a)$", "not": {"const": "(a"}}, ['"?a"'], ['"(a"', '"a"']),
        ({"patternProperties": {r"^\p{L}$": {"type": "null"}}, "not": {"required": ["b"]}}, ['{"a":null}'],
         ['{"a":1}', '{"b":null}']),
    ],
)  # fmt: skip
def test_patterns_that_python_or_the_engine_cannot_read_are_enforced_by_the_other(
    population: Any, schema: Any, right: list[str], wrong: list[str]
) -> None:
    constraint = json_schema(schema, whitespace="compact")
    assert all(accepts(constraint, json.dumps(json.loads(text), ensure_ascii=False).replace(": ", ":"), population)
               for text in right)  # fmt: skip
    assert not any(accepts(constraint, text, population) for text in wrong)


CLASSES = [
    '^[^"]*$', r"^[^\\]+$", r'^[^<>:"/\\|?*\n]+$', r"^[\x00-!#-\U0010ffff]$", r'^[^\w"]', '^[^]"]$',
    "^[a-c&&b]$", "^[^a&&b]$", "^[a-c--b]$", "^[+--]$", "^[a~~b]$", "^[[a]]$", "^[[:alpha:]]$", r"^[\[-\]-]$",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Possible :FutureWarning")
@pytest.mark.parametrize("pattern", CLASSES)
def test_classes_of_characters_mean_what_they_say(pattern: str) -> None:
    """Each against `re`; `$` stands before a last line break in Python only."""
    text = json_schema({"type": "string", "pattern": pattern})
    name = json_schema({"patternProperties": {pattern: {}}, "additionalProperties": False, "type": "object"})
    for value in ["", "a]", '\n"a', *'"\\\x01a]b[&~-+:l{\x7f']:
        meant, written = re.search(pattern, value) is not None, json.dumps(value).replace("\x7f", r"\u007f")
        assert masked(text, written) == meant, value
        assert masked(name, f"{{{written}: 1}}") == meant, value


@pytest.mark.parametrize("pattern", ["a(", r"\p{Nothing}", r"(?<n>\p{L}"])
def test_a_pattern_that_nobody_reads_is_refused(pattern: str) -> None:
    with pytest.raises(ConstraintError, match=r"regex parse error|is not a 'regex'"):
        json_schema({"type": "string", "pattern": pattern})


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "string", "format": "date"}, '"2024-02-29"', '"2023-02-29"'),
        ({"type": "string", "format": "date-time"}, '"2024-02-29T00:00:00Z"', '"2024-04-31T00:00:00Z"'),
        ({"properties": {"on": {"format": "date"}}}, '{"on":"2000-02-29"}', '{"on":"1900-02-29"}'),
        ({"type": "string", "not": {"format": "ipv4"}}, '"a"', '"10.0.0.1"'),
    ],
)
def test_a_date_is_a_day_of_the_calendar(population: Any, schema: Any, right: str, wrong: str) -> None:
    constraint = json_schema(schema, whitespace="compact")
    assert accepts(constraint, right, population) and not accepts(constraint, wrong, population)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"type": "array", "prefixItems": [{}, {"anyOf": [{"$ref": "#"}]}], "minItems": 2},
    ],
)
def test_a_schema_whose_values_never_end_is_refused(schema: Any) -> None:
    with pytest.raises(ConstraintError, match="without end"):
        json_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"$ref": "#"}},
        {"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["a"]},
        {"anyOf": [{"type": "array", "items": {"$ref": "#"}, "minItems": 2}, {"type": "integer"}]},
    ],
)
def test_a_schema_that_holds_itself_and_may_end_is_taken(schema: Any) -> None:
    json_schema(schema)


def test_the_schema_of_nothing_is_masked_and_refused_where_something_must_be(population: Any) -> None:
    never = {"type": "object", "properties": {"a": {"not": {}}, "b": {"not": True}}}
    constraint = json_schema(never, whitespace="compact")
    assert masked(constraint, '{"c":1}') and not any(masked(constraint, f'{{"{name}":1}}') for name in "ab")
    with pytest.raises(ConstraintError, match="no value meets it"):
        json_schema({**never, "required": ["a"]})


UserId = typing.NewType("UserId", int)


@pytest.mark.parametrize("kind", [UserId, list[UserId], pydantic.TypeAdapter(UserId)])
def test_a_new_type_and_an_adapter_are_types(population: Any, kind: Any) -> None:
    text = "[3]" if kind == list[UserId] else "3"
    constraint = json_schema(kind)
    assert accepts(constraint, text, population) and not accepts(constraint, '"a"', population)
    assert constraint.read(text) == json.loads(text)


class Hooked(pydantic.BaseModel):
    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> Any:
        raise KeyError("mine")


class Divides(pydantic.BaseModel):
    a: typing.Literal[0, 1]

    @pydantic.field_validator("a")
    @classmethod
    def divide(cls, a: int) -> int:
        return 1 // a


def test_a_hook_of_a_type_that_raises_is_told_with_its_error() -> None:
    with pytest.raises(ConstraintError, match="KeyError: 'mine'"):
        json_schema(Hooked)


def test_a_validator_that_raises_what_is_no_verdict_is_told_with_the_text(population: Any) -> None:
    constraint = json_schema(Divides, whitespace="compact")
    assert accepts(constraint, '{"a":1}', population)
    with pytest.raises(
        ConstraintError, match=r"raised ZeroDivisionError: .* on the text '{\"a\":0}'; a validator rejects"
    ):
        accepts(constraint, '{"a":0}', population)


@pytest.mark.skipif(importlib.util.find_spec("email_validator") is None, reason="pydantic's extra `email` is missing")
def test_names_with_addresses_are_read(population: Any) -> None:
    constraint = json_schema(pydantic.NameEmail)
    text = '"A B <a@example.com>"'
    assert accepts(constraint, text, population) and not accepts(constraint, '"A B <a@>"', population)
    assert constraint.read(text) == pydantic.NameEmail("A B", "a@example.com")


@pytest.mark.parametrize("kind", [pydantic.NameEmail, list[pydantic.EmailStr]])
def test_a_type_that_needs_a_missing_package_names_it(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    monkeypatch.setitem(sys.modules, "email_validator", None)
    monkeypatch.setattr("pydantic.networks.email_validator", None, raising=False)
    with pytest.raises(FeynkacError, match=r"needs a package that is not installed: email-validator.*pip install"):
        json_schema(kind)


OUTLINED = [
    {"type": "object", "properties": {"a": {}, "b": {"type": "string", "minLength": 2}}, "required": ["b"]},
    {"type": "object", "properties": {"a": {"enum": ["x", 1, None]}}, "additionalProperties": False},
    {"type": "object", "additionalProperties": {"type": "array", "items": {"const": {"a": [1]}}}},
    {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": {"type": "number"}},
    {"type": "array", "prefixItems": [{"type": "null"}], "items": False, "minItems": 1},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2},
    {"type": "array", "items": {"$ref": "#"}, "maxItems": 2},
    {"anyOf": [{"type": "string", "format": "date"}, {"type": ["integer", "array"]}, {"const": "a\"é"}]},
    {"$defs": {"t": {"type": "object", "properties": {"l": {"$ref": "#/$defs/t"}, "v": {}}, "required": ["v"]}},
     "$ref": "#/$defs/t"},
    {"allOf": [{"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]},
               {"properties": {"a": {"type": "integer"}}, "required": ["a"]}]},
    {"type": "object", "patternProperties": {"^x": {}}, "properties": {"é": {}}, "required": ["é", "z"]},
    True,
]  # fmt: skip


@pytest.mark.parametrize("schema", OUTLINED, ids=json.dumps)
def test_the_outline_accepts_all_that_the_schema_accepts(schema: Any) -> None:
    """Random texts of the schema, structure preferred so that they end."""
    constraint, rng = json_schema(schema), np.random.default_rng(0)
    automaton, ended = constraint.automaton(BYTES), 0
    assert build_outline(constraint._masked) is not None
    outline = automaton._outline
    for _ in range(60):
        state, mapped = np.zeros(1, np.int64), np.zeros(1, np.int64)
        for _ in range(60):
            if automaton.accepts(state)[0]:
                ended += 1
                assert outline.accepts(mapped)[0]
            allowed = np.flatnonzero(unpack(automaton.masks(state), 257)[0][:256])
            closing = [b for b in allowed if b in b'"]}:,']
            if not len(allowed):
                break
            byte = np.array([rng.choice(closing if closing and rng.random() < 0.5 else allowed)])
            state, mapped = automaton.advance(state, byte), outline.advance(mapped, byte)
            assert state[0] > 0 and mapped[0] >= 0
    assert ended > 5


STRUCTURE = (b"", b"{", b"}", b'"', b'"a"', b"a", b":", b'":', b"1", b" ", b",", b"[", b"]", b"b", b'","', b'{"', b'"}')


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {"const": 1}}, "required": ["a", "b"],
         "additionalProperties": False},
        {"type": "array", "items": {"type": "array", "items": {"const": "a"}, "minItems": 1}, "minItems": 2},
        {"type": "object", "properties": {"a": {"type": "string", "minLength": 3}}, "required": ["a"]},
    ],
)  # fmt: skip
def test_a_json_text_is_begun_only_if_it_can_be_ended_within_the_limit(explore: Any, schema: Any) -> None:
    """Walks that draw evenly among the masked tokens never die, down to the least number of tokens that there is."""
    vocabulary = Vocabulary(STRUCTURE, (0,))
    automaton, rng = json_schema(schema).automaton(vocabulary), np.random.default_rng(0)
    whole = explore(automaton, vocabulary)
    shortest = next(n for n in range(40) if (mask_within(automaton, np.zeros(1, np.int64), np.array([n])) > 1).any())
    for limit in range(shortest, shortest + 6):
        for _ in range(15):
            state = np.zeros(1, np.int64)
            for written in range(limit + 1):
                allowed = np.flatnonzero(unpack(mask_within(automaton, state, np.array([limit - written])), 32)[0])
                assert len(allowed)
                token = rng.choice(allowed)
                if token == 0:
                    break
                state = automaton.advance(state, np.array([token]))
            assert whole.accepts(int(state[0]))
    assert len(vocabulary.tokens) < 32


def draw_value(rng: random.Random, depth: int = 0) -> Any:
    """A JSON value of few characters, properties in alphabetical order."""
    kind = rng.choice("isbn" if depth == 2 else "isbnao")
    if kind == "a":
        return [draw_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    if kind == "o":
        return {name: draw_value(rng, depth + 1) for name in "abc" if rng.random() < 0.5}
    return {"i": rng.randint(-2, 12), "s": "ab"[: rng.randint(0, 2)], "b": rng.random() < 0.5, "n": None}[kind]


def draw_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema with what can be masked and what cannot."""

    def inner() -> Any:
        return draw_schema(rng, depth + 1) if depth < 2 else {}

    def maybe(p: float, **keywords: Any) -> dict[str, Any]:
        return {key: make() for key, make in keywords.items()} if rng.random() < p else {}

    kind = rng.choice(["integer", "string", "boolean", "array", "object", None])
    schema: dict[str, Any] = {} if kind is None else {"type": kind}
    if kind == "integer":
        schema |= maybe(0.5, minimum=lambda: rng.randint(0, 5))
    if kind == "string":
        schema |= maybe(0.4, minLength=lambda: rng.randint(0, 2))
        schema |= maybe(0.4, pattern=lambda: rng.choice(["^a(?!b)", "^a", "(?=b)"]))
    if kind == "array":
        schema |= maybe(0.7, items=inner) | maybe(0.3, uniqueItems=lambda: True) | maybe(0.2, contains=inner)
    if kind == "object":
        schema["properties"] = {name: inner() for name in "abc" if rng.random() < 0.7}
        schema |= maybe(0.4, required=lambda: [name for name in schema["properties"] if rng.random() < 0.4])
        schema |= maybe(0.3, additionalProperties=lambda: rng.choice([False, True, {"type": "integer"}]))
        schema |= maybe(0.2, dependentRequired=lambda: {"a": ["b"]})
        schema |= maybe(0.2, propertyNames=lambda: {"enum": ["a", "b"]})
        schema |= maybe(0.2, patternProperties=lambda: {rng.choice(["^a", "^(?!b)"]): {}})
    branches = {"not": inner, "oneOf": lambda: [inner(), inner()], "anyOf": lambda: [inner(), inner()], "if": inner}
    for key, make in branches.items():
        schema |= maybe(0.15, **{key: make})
    return schema | (maybe(1.0, then=inner) if "if" in schema else {})


def test_random_schemas_mean_what_the_specification_says() -> None:
    """Nothing invalid is accepted; what is masked is in the outline; only checks take away what masks let through."""
    rng, accepted = random.Random(1), 0
    for _ in range(50):
        schema = draw_schema(rng)
        try:
            constraint = json_schema(schema)
        except ConstraintError as error:
            assert "Unsatisfiable" in str(error)
            continue
        automaton = constraint.automaton(BYTES)
        validator = jsonschema.Draft202012Validator(schema)
        for _ in range(6):
            value = draw_value(rng)
            text = json.dumps(value)
            states = outlines = np.zeros(1, np.int64)
            for byte in text.encode():
                states, outlines = (each.advance(s, np.array([byte])) for each, s in
                                    ((automaton, states), (automaton._outline, outlines)))  # fmt: skip
            if automaton.accepts(states)[0]:
                assert automaton._outline.accepts(outlines)[0], (schema, text)
                assert constraint.approves(BYTES, list(text.encode())) == validator.is_valid(value), (schema, text)
                accepted += 1
    assert accepted > 30


@pytest.mark.parametrize("divisor", [2_318_054, 23_180.54, -2_318_054, -(10**400), 10**30, 10**400])
def test_a_large_divisor_is_checked_and_not_compiled(divisor: float) -> None:
    if divisor < 0:
        with pytest.raises(ConstraintError, match="multipleOf"):
            json_schema({"multipleOf": divisor})
        return
    schema = json_schema({"multipleOf": divisor})
    assert schema._checks[0](str(divisor))
    assert not schema._checks[0]("7")


@pytest.mark.parametrize("merge", [
    lambda one, other: {"allOf": [one, other]},
    lambda one, other: {**one, "allOf": [other]},
    lambda one, other: {**one, "anyOf": [other, {"type": "string"}]},
    lambda one, other: {**one, "$ref": "#/$defs/a", "$defs": {"a": other}},
])  # fmt: skip
@pytest.mark.parametrize(("one", "other"), [(9973, 9967), (24997.75, 4), (997, 0.0991)])
def test_divisors_that_are_large_together_are_not_both_compiled(merge, one: float, other: float) -> None:
    schema = json_schema(merge({"multipleOf": one}, {"multipleOf": other}))
    common = Fraction(str(one)) * Fraction(str(other))
    assert schema._checks[0](str(int(common * 10_000)))
    assert not schema._checks[0](str(other)) and not schema._checks[0](str(one))


def test_a_recursion_that_ends_in_a_panic_of_compiled_code_is_told() -> None:
    """Of `rpds`, below jsonschema, where a reference goes round until Python's stack ends."""
    panic = type("PanicException", (BaseException,), {})

    class Validator:
        def is_valid(self, value: Any) -> bool:
            raise panic("__eq__ failed")

    check = SchemaCheck({"type": "string"})
    check._validator = Validator()
    with pytest.raises(ConstraintError, match="a reference in the schema leads nowhere"):
        check("null")


def test_words_are_counted_in_texts_of_bounded_length() -> None:
    words = json_schema({"type": "string", "pattern": r"^(?:\S+\s+){0,49}\S+$", "maxLength": 500})
    text = "These are the words of a text that is long enough, " * 2
    assert masked(words, f'"{text}end"') and not masked(words, f'"{text}"')
