"""Schemas that lead back to themselves through a combination of several, which llguidance cannot merge."""

from __future__ import annotations

from typing import Any

from feynkac.potentials.constraints.schemas.mistakes import ASSERTIONS
from feynkac.potentials.constraints.schemas.walking import list_targets, rewrite, walk

_COMBINE = ("allOf", "anyOf", "oneOf")


def part_circles(schema: Any) -> tuple[Any, list[str]]:
    """A schema that allows more, in which what leads back to itself stands alone; the places of what was left out.

    Of `{"type": "object", "anyOf": [{"$ref": "#/$defs/sum"}]}`, where a sum holds such schemas, `anyOf` is kept, and
    of an `allOf` the first reference; where `properties` stand beside it, they are.
    """
    targets, dropped = list_targets(schema), list[str]()
    circular = {lead for lead in targets if _leads_to(lead, lead, targets)}

    def change(path: str, inner: dict[str, Any]) -> dict[str, Any]:
        leading = [key for key in ("$ref", *_COMBINE) if any(lead in circular for lead in _list_leads(key, inner))]
        beside = [key for key in inner if key in ASSERTIONS and key not in leading]
        if not leading:
            return inner
        gone = {*leading, *_REST} if "properties" in inner else {*beside, *leading[1:]}
        kept = {key: value for key, value in inner.items() if key not in gone}
        if leading[0] == "allOf" and len(kept.get("allOf", ())) > 1:
            gone.add("allOf")
            kept["allOf"] = [
                next(
                    each
                    for each in inner["allOf"]
                    if isinstance(each, dict) and not circular.isdisjoint(_list_all(each))
                )
            ]
        if len(leading) + len(beside) == 1 and "allOf" not in gone:
            return inner
        dropped.extend(f"{path}/{key}" for key in inner if key in gone)
        return kept

    return rewrite(schema, change), dropped


_REST = ("unevaluatedItems", "unevaluatedProperties")
"""What would forbid more without the combinations beside it."""


def _list_leads(key: str, schema: dict[str, Any]) -> list[str]:
    """The references in a keyword that are to be merged with what stands beside it."""
    if key == "$ref":
        return [schema[key]] if isinstance(schema.get(key), str) else []
    several = [each for each in schema.get(key, ()) if isinstance(each, dict)]
    return [lead for each in several for lead in _list_all(each)]


def _list_all(schema: dict[str, Any]) -> list[str]:
    return [lead for key in ("$ref", *_COMBINE) for lead in _list_leads(key, schema)]


def _leads_to(lead: str, wanted: str, targets: dict[str, Any]) -> bool:
    """Whether what a reference leads to holds another one, or leads there."""
    todo, seen = [lead], set[str]()
    while todo:
        for _, inner in walk(targets[todo.pop()]):
            found = inner.get("$ref")
            if found == wanted:
                return True
            if isinstance(found, str) and found in targets and found not in seen:
                seen.add(found)
                todo.append(found)
    return False
