"""What is no schema though it looks like one: by the specification it would allow any JSON, which nobody wants."""

from __future__ import annotations

import difflib
from typing import Any

from feynkac.potentials.constraints.schemas.walking import walk

_ASSERTIONS = (
    "$dynamicRef", "$ref", "additionalItems", "additionalProperties", "allOf", "anyOf", "const", "contains",
    "dependencies", "dependentRequired", "dependentSchemas", "else", "enum", "exclusiveMaximum", "exclusiveMinimum",
    "format", "if", "items", "maxContains", "maxItems", "maxLength", "maxProperties", "maximum", "minContains",
    "minItems", "minLength", "minProperties", "minimum", "multipleOf", "not", "oneOf", "pattern",
    "patternProperties", "prefixItems", "properties", "propertyNames", "required", "then", "type",
    "unevaluatedItems", "unevaluatedProperties", "uniqueItems",
)  # fmt: skip
_ANNOTATIONS = (
    "$anchor", "$comment", "$defs", "$dynamicAnchor", "$id", "$recursiveAnchor", "$recursiveRef", "$schema",
    "$vocabulary", "contentEncoding", "contentMediaType", "contentSchema", "default", "definitions", "deprecated",
    "description", "discriminator", "example", "examples", "externalDocs", "id", "readOnly", "title", "writeOnly",
    "xml", "x-guidance",
)  # fmt: skip
_WRAPPERS = ("parameters", "input_schema", "inputSchema", "schema", "json_schema", "function")
_CLOSE = 0.82  # of the letters agree


def find_mistake(schema: Any) -> str | None:
    """What is probably meant otherwise, with its place and what to write; None where nothing is."""
    if isinstance(schema, dict) and schema and not any(key in _ASSERTIONS for key in schema):
        if wrapped := [key for key in _WRAPPERS if isinstance(schema.get(key), dict)]:
            return (
                f"this describes a tool or a format and is no schema, for it has {wrapped[0]!r} and no keyword of JSON "
                f"Schema; give what is in it: json_schema(description[{wrapped[0]!r}])"
            )
        known = (*_ASSERTIONS, *_ANNOTATIONS)
        if strange := [key for key in schema if key not in known and not _is_misspelt(key)]:
            return (
                f"{strange[0]!r} is no keyword of JSON Schema, so that any JSON would be valid; the properties of an "
                'object are written {"type": "object", "properties": {...}}'
            )
    for path, inner in walk(schema):
        for key, value in inner.items():
            if key == "nullable" and value:
                return f"{path}/nullable is of OpenAPI, and no keyword of JSON Schema; write " + _make_nullable(inner)
            if meant := _is_misspelt(key):
                return f"{path}/{key} is no keyword of JSON Schema; did you mean {meant!r}?"
    return None


def _is_misspelt(key: Any) -> str | None:
    """The keyword that is probably meant by another word."""
    if not isinstance(key, str) or key in _ASSERTIONS or key in _ANNOTATIONS or key.startswith("x-"):
        return None
    close = {name.lower(): name for name in (*_ASSERTIONS, *_ANNOTATIONS)}
    word = key.lower()
    found = difflib.get_close_matches(word, close, n=1, cutoff=_CLOSE)
    # Many a tool has annotations of its own, which forbid nothing: "descriptions", "tsType", "requiredIf".
    if not found or close[found[0]] not in _ASSERTIONS or (found[0] in word and len(word) > len(found[0]) + 1):
        return None
    return close[found[0]] if abs(len(word) - len(found[0])) <= 2 else None


def _make_nullable(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    return f'"type": ["{kind}", "null"]' if isinstance(kind, str) else '"anyOf": [{...}, {"type": "null"}]'
