"""The places in a schema where schemas stand, and the keywords there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from feynkac.potentials.constraints.engines.llguidance.chains import find_longest

_ONE = (
    "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not",
    "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_MANY = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
NAMED = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")
"""Keywords whose schemas have names."""
MAX_DEPTH = 120
"""How deeply a schema may be nested: a little less than llguidance reads."""


def find_depth(schema: Any) -> int:
    """How deeply lists and objects are nested; MAX_DEPTH + 1 for all that is deeper."""
    todo, deepest = [(schema, 1)], 0
    while todo:
        value, depth = todo.pop()
        deepest = max(deepest, depth)
        if deepest > MAX_DEPTH:
            break
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        todo += [(each, depth + 1) for each in inner if isinstance(each, (dict, list, tuple))]
    return deepest


def walk(schema: Any, path: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each schema within `schema`, itself first, and its place as a JSON pointer. Property names are no keywords."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for key, inner in schema.items():
        for place, each in _list_inner(key, inner):
            yield from walk(each, f"{path}/{place}")


def rewrite(schema: Any, change: Callable[[str, dict[str, Any]], dict[str, Any]], path: str = "#") -> Any:
    """A copy of `schema` in which each schema is what `change(place, schema)` makes of it, the outer ones first."""
    if not isinstance(schema, dict):
        return schema
    made = dict(change(path, schema))
    for key, inner in made.items():
        if key in NAMED and isinstance(inner, dict):
            made[key] = {name: rewrite(each, change, f"{path}/{key}/{escape(name)}") for name, each in inner.items()}
        elif key in _MANY and isinstance(inner, list):
            made[key] = [rewrite(each, change, f"{path}/{key}/{i}") for i, each in enumerate(inner)]
        elif key in _ONE:
            made[key] = rewrite(inner, change, f"{path}/{key}")
    return made


def escape(name: str) -> str:
    """A name as a part of a JSON pointer."""
    return str(name).replace("~", "~0").replace("/", "~1")


def _list_inner(key: str, inner: Any) -> list[tuple[str, Any]]:
    if key in NAMED and isinstance(inner, dict):
        return [(f"{key}/{escape(name)}", each) for name, each in inner.items()]
    if key in _MANY and isinstance(inner, list):
        return [(f"{key}/{i}", each) for i, each in enumerate(inner)]
    return [(key, inner)] if key in _ONE else []


def find_reach(schema: Any) -> int:
    """How deep schemas stand in each other where each `$ref` within the document is followed (see `chains`)."""
    named = {name: each for each in _list_dicts(schema) for name in _list_names(each)}

    def follow(reference: str) -> tuple[int, list[tuple[str, int]]]:
        found, deepest, todo = list[tuple[str, int]](), 0, [(_find_target(schema, reference, named), 1)]
        while todo:
            value, depth = todo.pop()
            deepest = max(deepest, depth)
            if isinstance(value, dict) and isinstance(other := value.get("$ref"), str):
                found.append((other, depth))
            inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            todo += [(each, depth + 1) for each in inner if isinstance(each, dict | list)]
        return deepest, found

    return find_longest(["#"], follow)


def _find_target(schema: Any, reference: str, named: dict[str, Any]) -> Any:
    """What a reference stands for; nothing if it leads elsewhere."""
    base, _, pointer = reference.partition("#")
    if pointer and not pointer.startswith("/"):
        return named.get(f"#{pointer}", {})
    return _look_up(named.get(base, {}) if base else schema, pointer, {})


def _look_up(value: Any, pointer: str, otherwise: Any) -> Any:
    """What stands at a JSON pointer within a value."""
    for part in pointer.split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, dict) and name in value:
            value = value[name]
        else:
            return otherwise
    return value


def _list_dicts(schema: Any) -> Iterator[dict[str, Any]]:
    todo = [schema]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            yield value
        todo += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _list_names(schema: dict[str, Any]) -> list[str]:
    """The names by which references may mean a schema."""
    ids = [schema[key] for key in ("$id", "id") if isinstance(schema.get(key), str)]
    anchors = [schema[key] for key in ("$anchor", "$dynamicAnchor") if isinstance(schema.get(key), str)]
    return [*ids, *(f"#{anchor}" for anchor in anchors)]


_STAYS = {"$defs": 2, "allOf": 2, "anyOf": 2, "definitions": 2, "prefixItems": 2, "properties": 2, "items": 1}
"""Keywords that masks keep as they stand, and the parts that each has in a JSON pointer."""


def walk_all(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """What `walk` finds, and the schemas in places that references alone lead to, such as "#/components/schemas/a"."""
    yield from (places := dict(walk(schema))).items()
    for lead, target in list_targets(schema).items():
        if unquote(lead) not in places:
            yield from walk(target, unquote(lead))


def list_targets(schema: Any) -> dict[str, Any]:
    """The schemas of this document that references lead to, by these references."""
    found, todo = dict[str, Any](), [schema]
    while todo:
        for _, inner in walk(todo.pop()):
            lead = inner.get("$ref")
            if not isinstance(lead, str) or lead in found or not (lead == "#" or lead.startswith("#/")):
                continue
            if isinstance(target := _look_up(schema, lead, None), dict | bool):
                found[lead] = target
                todo.append(target)
    return found


def settle_references(schema: Any) -> Any:
    """`schema`, whose references lead to what stays where it is, and where schemas are looked for.

    References into keywords that may be left out or rewritten, or to places that no keyword leads to, lead to copies
    in `$defs`.
    """
    if any("$id" in inner or "id" in inner for path, inner in walk_all(schema) if path != "#"):
        return schema  # what "#" means there depends on the place
    places = dict(walk(schema))
    copies = {
        lead: target
        for lead, target in list_targets(schema).items()
        if unquote(lead) not in places or _may_go(unquote(lead))
    }
    if not copies:
        return schema
    names = {lead: f"~{number}" for number, lead in enumerate(copies)}

    def change(path: str, inner: dict[str, Any]) -> dict[str, Any]:
        name = names.get(inner["$ref"]) if isinstance(inner.get("$ref"), str) else None
        return inner if name is None else {**inner, "$ref": f"#/$defs/{escape(name)}"}

    copied = {names[lead]: target for lead, target in copies.items()}
    return rewrite({**schema, "$defs": {**schema.get("$defs", {}), **copied}}, change)


def _may_go(pointer: str) -> bool:
    """Whether a place is within a keyword that masks may leave out."""
    parts = pointer.split("/")[1:]
    while parts:
        if (taken := _STAYS.get(parts[0])) is None:
            return True
        parts = parts[taken + (parts[0] == "items" and len(parts) > 1 and parts[1].isdecimal()) :]
    return False
