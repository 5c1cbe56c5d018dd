"""Schemas that no value meets, since each would have to hold another one without end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from feynkac.potentials.constraints.schemas.walking import walk


def is_endless(schema: Any) -> bool:
    """Whether no value of a schema would ever end.

    Of what a schema asks, only what must be there counts: required properties, least numbers of items, references,
    `allOf`, and the branches of `anyOf` and `oneOf`, one of which must end.
    """
    places = dict(walk(schema))
    if any("$id" in inner or "id" in inner for path, inner in places.items() if path != "#"):
        return False  # what "#" means there depends on the place
    ends, todo = set[int](), list(places.values())
    while True:  # until nothing more is found to end: each pass is linear in the schema
        rest = [inner for inner in todo if not _ends(inner, places, ends)]
        if len(rest) == len(todo):
            break
        ends |= {id(inner) for inner in todo} - {id(inner) for inner in rest}
        todo = rest
    return isinstance(schema, dict) and id(schema) not in ends


def _ends(schema: dict[str, Any], places: dict[str, Any], ends: set[int]) -> bool:
    """Whether a value may end, as far as `ends`, the schemas of which that is known, tell."""
    if not all(_is_known(inner, ends) for inner in _list_needed(schema, places)):
        return False
    choices = [schema[key] for key in ("anyOf", "oneOf") if isinstance(schema.get(key), list) and schema[key]]
    return all(any(_is_known(inner, ends) for inner in branches) for branches in choices)


def _is_known(inner: Any, ends: set[int]) -> bool:
    return not isinstance(inner, dict) or id(inner) in ends


def _list_needed(schema: dict[str, Any], places: dict[str, Any]) -> Iterator[Any]:
    """The schemas of which a value must meet, or hold, one each."""
    reference, kind = schema.get("$ref"), schema.get("type")
    if isinstance(reference, str):
        yield places.get(unquote(reference))
    if isinstance(schema.get("allOf"), list):
        yield from schema["allOf"]
    properties, required = schema.get("properties"), schema.get("required")
    if kind == "object" and isinstance(properties, dict) and isinstance(required, list):
        yield from (properties[name] for name in required if isinstance(name, str) and name in properties)
    least, given, items = schema.get("minItems"), schema.get("prefixItems", []), schema.get("items")
    if kind == "array" and isinstance(least, int) and isinstance(given, list):
        yield from given[:least]
        if least > len(given):
            yield items
