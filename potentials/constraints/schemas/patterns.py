"""Patterns of JSON Schema that Python's `re` does not read, in words that it reads."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from feynkac.potentials.constraints.schemas.walking import rewrite

_FOUND = re.compile(
    r"\\[^pP]|(?P<property>\\[pP](?:\w|\{[^{}]*\}))|(?P<group>\(\?<(?=[A-Za-z_]))|(?P<bracket>\[\^?|\])", re.DOTALL
)
"""Another escape, a property of characters, the beginning of a named group, a bracket."""


def translate_patterns(schema: Any) -> Any:
    """`schema`, its patterns as `re` has them where that is possible."""

    def change(path: str, inner: dict[str, Any]) -> dict[str, Any]:
        made = dict(inner)
        if isinstance(inner.get("pattern"), str):
            made["pattern"] = translate(inner["pattern"])
        if isinstance(named := inner.get("patternProperties"), dict):
            made["patternProperties"] = {translate(str(pattern)): each for pattern, each in named.items()}
        return made

    return rewrite(schema, change)


def translate(pattern: str) -> str:
    """A pattern with properties (`\\p{L}`) spelt out, and names of groups as Python writes them."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        pass
    else:
        return pattern
    try:
        return _FOUND.sub(_Translation(), pattern)
    except ValueError:
        return pattern


class _Translation:
    """What each find is replaced by; a property within brackets has none of its own."""

    def __init__(self) -> None:
        self._inside = False

    def __call__(self, found: re.Match[str]) -> str:
        if bracket := found["bracket"]:
            self._inside = bracket != "]"
        if found["group"]:
            return found[0] if self._inside else "(?P<"
        if not found["property"]:
            return found[0]
        listed = _list_characters(found["property"])
        return listed if self._inside else f"[{listed}]"


@lru_cache(maxsize=64)
def _list_characters(name: str) -> str:
    """The characters that have a property, as ranges within brackets. Raises ValueError for no property."""
    import regex

    try:
        compiled = regex.compile(f"{name}+")
    except regex.error as error:
        raise ValueError(str(error)) from None
    runs = [found.span() for found in compiled.finditer(_all_characters())]
    if not runs:
        raise ValueError(f"no character has {name}")
    return "".join(f"\\U{start:08x}-\\U{end - 1:08x}" for start, end in runs)


@lru_cache(maxsize=1)
def _all_characters() -> str:
    """All of Unicode in order; halves of characters are no text, and hold their places only."""
    return "".join(map(chr, range(0x110000)))
