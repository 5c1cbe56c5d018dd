"""What is no schema though it looks like one: by the specification it would allow any JSON, which nobody wants."""

from __future__ import annotations

import difflib
from typing import Any

from feynkac.base.errors import quote
from feynkac.potentials.constraints.schemas.walking import NAMED, escape, walk_all

ASSERTIONS = (
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
_TOOLS = ("function", "json_schema", "json_object", "custom", "tool", "text")
"""What descriptions of tools and of formats of answers have as their "type"."""
_MEANT = {
    "divisibleBy": "multipleOf", "regex": "pattern", "regexp": "pattern", "disallow": "not", "extends": "allOf",
    "min": "minimum", "max": "maximum", "elements": "items", "optionalProperties": "properties",
    "choices": "enum", "options": "enum", "allowedValues": "enum",
}  # fmt: skip
"""Words of older drafts and of other libraries, each with the keyword of today; not in place of one that is there."""
_SHAPES: dict[str, tuple[type, str]] = {
    **dict.fromkeys(NAMED, (dict, "an object of names and schemas")),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), (list, "a list of schemas")),
    **dict.fromkeys(("$anchor", "$id", "$ref", "$schema", "pattern"), (str, "a string")),
}
"""What a keyword that says where schemas are, or which strings are meant, must hold to be read at all."""
_CLOSE = 0.82  # of the letters agree


def find_mistake(schema: Any) -> str | None:
    """What is probably meant otherwise, with its place and what to write; None where nothing is."""
    if isinstance(schema, dict) and schema.get("type") in _TOOLS:
        return _unwrap(schema, f'its "type" is {quote(schema["type"])}')
    if isinstance(schema, dict) and schema and not any(key in ASSERTIONS for key in schema):
        if wrapped := _find_wrapped(schema):
            return _unwrap(schema, f"it has {quote(wrapped)} and no keyword of JSON Schema")
        known = (*ASSERTIONS, *_ANNOTATIONS)
        if strange := [key for key in schema if key not in known and not _is_misspelt(key, schema[key])]:
            return (
                f"{quote(strange[0])} is no keyword of JSON Schema, so that any JSON would be valid; the properties "
                'of an object are written {"type": "object", "properties": {...}}'
            )
    places = dict(walk_all(schema))
    required = {f"{path}/properties/{escape(n)}" for path, inner in places.items() for n in _list_required(inner)}
    for path, inner in places.items():
        for key, value in inner.items():
            if key == "nullable" and value:
                return f"{path}/nullable is of OpenAPI, and no keyword of JSON Schema; write " + _make_nullable(inner)
            if meant := _is_misspelt(key, value) or _is_of_another_dialect(key, inner):
                return f"{path}/{key} is no keyword of JSON Schema; did you mean {quote(meant)}?"
            if mistake := _find_wrong_shape(path, key, value) or _find_wrong_flag(path, key, value, required):
                return mistake
    return None


def _find_wrapped(description: dict[str, Any]) -> str | None:
    """The key of what holds the schema in a description of a tool or a format."""
    return next((key for key in _WRAPPERS if isinstance(description.get(key), dict)), None)


def _unwrap(description: dict[str, Any], sign: str) -> str:
    """What to give instead of a description: the schema in it, by the keys that lead there."""
    keys, inner = "", description
    while (key := _find_wrapped(inner)) and (inner is description or inner.get("type") != "object"):
        keys, inner = f"{keys}[{quote(key)}]", inner[key]
    instead = f"give what is in it: json_schema(description{keys})" if keys else 'any object is {"type": "object"}'
    return f"this describes a tool or a format and is no schema, for {sign}; {instead}"


def _is_of_another_dialect(key: Any, schema: dict[str, Any]) -> str | None:
    """The keyword that a word of another dialect stands for, unless it stands there, too."""
    meant = _MEANT.get(key) if isinstance(key, str) else None
    if meant is None or meant in schema or (meant == "enum" and not isinstance(schema[key], list)):
        return None
    return meant


def _find_wrong_shape(path: str, key: Any, value: Any) -> str | None:
    """What a keyword must hold, where it holds something else."""
    kind, meant = _SHAPES.get(key, (object, ""))
    return None if isinstance(value, kind) else f"{path}/{key} is {quote(value)}; it must be {meant}"


def _list_required(schema: dict[str, Any]) -> list[str]:
    names = schema.get("required")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _find_wrong_flag(path: str, key: Any, value: Any, required: set[str]) -> str | None:
    """Flags of a single property in older drafts; `false` there says nothing, nor that what may be left out may."""
    if value is not True or not (key == "required" or (key == "optional" and path in required)):
        return None
    name = path.rpartition("/")[2].replace("~1", "/").replace("~0", "~")
    instead = f'write "required": ["{name}"] beside the "properties" that it is one of'
    if key == "optional":
        instead = 'leave it out of the list "required" beside the "properties" that it is one of'
    return f"{path}/{key}: whether a property must be there is said by its object; {instead}"


def _is_misspelt(key: Any, value: Any) -> str | None:
    """The keyword that is probably meant by another word, if its value is one for that keyword."""
    if not isinstance(key, str) or key in ASSERTIONS or key in _ANNOTATIONS or key.startswith("x-"):
        return None
    if not key[:1].isalnum() and not key.startswith("$"):  # "_format", "@type", "//": set aside on purpose
        return None
    close = {name.lower(): name for name in (*ASSERTIONS, *_ANNOTATIONS)}
    word = key.lower()
    found = difflib.get_close_matches(word, close, n=1, cutoff=_CLOSE)
    # Many a tool has annotations of its own, which forbid nothing: "descriptions", "tsType", "requiredIf".
    if not found or close[found[0]] not in ASSERTIONS or (found[0] in word and len(word) > len(found[0]) + 1):
        return None
    meant = close[found[0]] if abs(len(word) - len(found[0])) <= 2 else None
    # A word that is a part of the keyword, or more than it, may be one of its own: "note", "multiple", "require".
    alone = found[0] != word and (found[0] in word or word in found[0])
    return None if meant is not None and alone and not _may_be(meant, value) else meant


def _may_be(keyword: str, value: Any) -> bool:
    """Whether a keyword may have such a value, by the specification or an older one: `"not": "text"` is none."""
    from jsonschema import Draft3Validator, Draft4Validator, Draft202012Validator

    drafts: tuple[Any, ...] = (Draft202012Validator, Draft4Validator, Draft3Validator)
    known = [draft for draft in drafts if keyword in {*draft.VALIDATORS, *draft.META_SCHEMA["properties"]}]
    return not known or any(draft(draft.META_SCHEMA).is_valid({keyword: value}) for draft in known)


def _make_nullable(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    return f'"type": ["{kind}", "null"]' if isinstance(kind, str) else '"anyOf": [{...}, {"type": "null"}]'
