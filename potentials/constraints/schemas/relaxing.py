"""The part of a schema that can be masked: all that llguidance cannot enforce is left out, and told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from feynkac.potentials.constraints.schemas.amounts import loosen_amounts
from feynkac.potentials.constraints.schemas.circles import part_circles
from feynkac.potentials.constraints.schemas.patterns import spell_patterns
from feynkac.potentials.constraints.schemas.walking import rewrite, settle_references, walk

_COUNTS = ("maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties")
_COUNTLESS = 10**12  # longer than any text; llguidance counts up to 2^64
_KEPT = ("$defs", "$id", "$ref", "$schema", "definitions")
Compile = Callable[[Any], str | None]
"""Compiles a schema: None, or what is wrong with it in the words of llguidance."""


@dataclass
class Relaxed:
    """A schema that every text valid under the given one is valid under, too."""

    schema: Any
    dropped: list[str] = field(default_factory=list)
    """The places of the keywords that were left out."""
    formats: list[tuple[str, str]] = field(default_factory=list)
    """Formats that were left out, each with its place."""
    error: str | None = None
    """What is wrong all the same."""


def simplify(schema: Any) -> Any:
    """The same schema in other words, which llguidance reads.

    Counts are whole numbers, nothing stands beside `$ref` where the draft ignores it, `"not": {}` is the schema of
    nothing, references lead to places that stay, and classes of characters in patterns mean what they say.
    """
    written = schema.get("$schema") if isinstance(schema, dict) else None
    alone = isinstance(written, str) and re.search(r"draft-0[3-7]/", written) is not None

    def change(path: str, inner: dict[str, Any]) -> dict[str, Any]:
        kept = _KEPT if alone and "$ref" in inner else inner
        if "not" in kept and (inner["not"] is True or inner["not"] == {}):
            return {"enum": []}
        counted = {key: _make_whole(value) if key in _COUNTS else value for key, value in inner.items() if key in kept}
        return spell_patterns({key: value for key, value in counted.items() if not _is_countless(key, value)})

    return rewrite(settle_references(schema), change)


def _make_whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_countless(key: str, value: Any) -> bool:
    """Whether a keyword allows more than there can be, and so all."""
    return key in _COUNTS and key.startswith("max") and isinstance(value, int) and value > _COUNTLESS


def relax(schema: Any, compile: Compile) -> Relaxed:
    """Leave out, one after the other, what `compile` says is unsupported."""
    relaxed = Relaxed(*loosen_amounts(schema))
    while (error := compile(relaxed.schema)) is not None:
        before = len(relaxed.dropped) + len(relaxed.formats)
        _leave_out(relaxed, error, compile)
        if len(relaxed.dropped) + len(relaxed.formats) == before:
            relaxed.error = error
            break
    return relaxed


def _leave_out(relaxed: Relaxed, error: str, compile: Compile) -> None:
    if found := re.search(r"Unimplemented keys: (\[.*?\])", error):
        _drop(relaxed, lambda key, value: key in json.loads(found[1]))
    elif found := re.search(r"Unknown format: (.*)", error):
        name = found[1].strip()
        places = [path for path, inner in walk(relaxed.schema) if inner.get("format") == name]
        relaxed.formats += [(f"{path}/format", name) for path in places]
        kept = len(relaxed.dropped)
        _drop(relaxed, lambda key, value: key == "format" and value == name)
        del relaxed.dropped[kept:]
    elif "oneOf constraints are not supported" in error:
        relaxed.dropped += [f"{path}/oneOf" for path, inner in walk(relaxed.schema) if "oneOf" in inner]
        relaxed.schema = rewrite(relaxed.schema, lambda path, inner: _at_least_one(inner))
    elif "circular references with sibling keys" in error or "intersection stack level exceeded" in error:
        relaxed.schema, places = part_circles(relaxed.schema)
        relaxed.dropped += places
        if not places:  # a property is merged with the patterns that its name matches
            _drop(relaxed, lambda key, value: key == "patternProperties", also=_BESIDE, within=_has_properties)
    elif "has too many digits" in error:
        _drop(relaxed, lambda key, value: key == "multipleOf" and compile({"multipleOf": value}) is not None)
    elif "are not disjoint" in error:
        # A name that two patterns match obeys both; and what neither matches falls to additionalProperties.
        several = any(len(inner.get("patternProperties", ())) > 1 for _, inner in walk(relaxed.schema))
        _drop(relaxed, lambda key, value: key == "patternProperties" and len(value) > several, also=_BESIDE)
    elif "min/maxProperties only supported" in error:
        some = any(_is_uncountable(inner, compile) for _, inner in walk(relaxed.schema))
        # Where none is by itself, some are together, in an allOf.
        _drop(
            relaxed, lambda key, value: key in _SIZES, within=lambda inner: not some or _is_uncountable(inner, compile)
        )
    else:
        strange = {pattern for pattern in _list_patterns(relaxed.schema) if _is_beyond(pattern, compile)}
        _drop(relaxed, lambda key, value: key == "pattern" and value in strange)
        # What a pattern does not match falls to additionalProperties, which must then be left out, too.
        _drop(relaxed, lambda key, value: key == "patternProperties" and not strange.isdisjoint(value), also=_BESIDE)


_BESIDE = ("additionalProperties", "unevaluatedProperties")


def _has_properties(schema: dict[str, Any]) -> bool:
    return "properties" in schema


_SIZES = ("maxProperties", "minProperties")


def _is_uncountable(schema: dict[str, Any], compile: Compile) -> bool:
    """Whether llguidance cannot count the properties of a schema by itself: some may be there or not."""
    if not any(key in schema for key in _SIZES):
        return False
    stub = {key: schema[key] for key in (*_SIZES, "required") if key in schema}
    error = compile({**stub, "properties": {name: {} for name in schema.get("properties", ())}})
    return error is not None and "min/maxProperties" in error


def _drop(
    relaxed: Relaxed,
    unwanted: Callable[[str, Any], bool],
    also: tuple[str, ...] = (),
    within: Callable[[dict[str, Any]], bool] = bool,
) -> None:
    """Leave out the unwanted keywords within some schemas, and `also` these beside them."""

    def change(path: str, schema: dict[str, Any]) -> dict[str, Any]:
        keys = [key for key, value in schema.items() if unwanted(key, value)] if within(schema) else []
        relaxed.dropped.extend(f"{path}/{key}" for key in keys)
        gone = {*keys, *also} if keys else set()
        return {key: value for key, value in schema.items() if key not in gone}

    relaxed.schema = rewrite(relaxed.schema, change)


def _at_least_one(schema: dict[str, Any]) -> dict[str, Any]:
    """`oneOf` as `anyOf`."""
    if "oneOf" not in schema:
        return schema
    rest = {key: value for key, value in schema.items() if key != "oneOf"}
    if "anyOf" not in rest:
        return {**rest, "anyOf": schema["oneOf"]}
    return {**rest, "allOf": [*rest.get("allOf", []), {"anyOf": schema["oneOf"]}]}


def _list_patterns(schema: Any) -> set[str]:
    found: set[str] = set()
    for _, inner in walk(schema):
        found |= {inner["pattern"]} if isinstance(inner.get("pattern"), str) else set()
        found |= set(inner["patternProperties"]) if isinstance(inner.get("patternProperties"), dict) else set()
    return found


def _is_beyond(pattern: str, compile: Compile) -> bool:
    """Whether a pattern is right, as far as Python can tell, and yet none that llguidance has."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return compile({"type": "string", "pattern": pattern}) is not None


def find_cause(schema: Any, compile: Compile, most: int = 300) -> str | None:
    """The place of the innermost schema that no value meets, each being tried by itself; None where none is found."""
    whole = schema if isinstance(schema, dict) else {}
    shared = {key: whole[key] for key in ("$defs", "definitions") if key in whole}
    for path, inner in reversed(list(walk(schema))[:most]):
        # A schema that nothing refers to may well be met by nothing.
        named = path.startswith(("#/$defs", "#/definitions"))
        error = None if named or path == "#" else compile({**shared, **inner})
        if error and "Unsatisfiable" in error:
            return path
    return "#"
