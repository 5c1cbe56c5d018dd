"""Patterns of JSON Schema in words that Python's `re` reads, and in words that llguidance reads as they are meant."""

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


_BRACKETS = re.compile(r"(?s)\\.|\[(?P<not>\^?)(?P<inner>\]?(?:\\.|[^\]\\])*)\]")
_ITEM = re.compile(r"(?s)(\\.|.)(?:-(\\.|[^\\]))?")
"""A character of a class, or the two ends of a range."""


def spell_patterns(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema, and none of those in it, its patterns as llguidance reads them."""
    made = dict(schema)
    if isinstance(schema.get("pattern"), str):
        made["pattern"] = _BRACKETS.sub(_spell_class, schema["pattern"])
    if isinstance(named := schema.get("patternProperties"), dict):
        made["patternProperties"] = {_BRACKETS.sub(_spell_class, str(key)): each for key, each in named.items()}
    return made


def _spell_class(found: re.Match[str]) -> str:
    r"""A class, in which `[`, `&&`, `--` and `~~` are characters, and no sets.

    Where a class holds all control characters, llguidance takes it for one that holds `"` and `\`, too (derivre 0.3.8,
    `quote_all_ctrl`). It does so no longer without U+0000.
    """
    if found["inner"] is None:
        return found[0]
    items = [(low, high) for low, high in _ITEM.findall(found["inner"])]
    inner = "".join(_escape(low) + (f"-{_escape(high)}" if high else "") for low, high in items)
    spelt = f"[{found['not']}{inner}]"
    if not _is_misquoted(spelt):
        return spelt
    return f"[^\\x00{inner}]" if found["not"] else f"[{_list_characters(spelt, 1)}]"


def _escape(character: str) -> str:
    return f"\\{character}" if character in tuple("[]&~-") else character


@lru_cache(maxsize=256)
def _is_misquoted(spelt: str) -> bool:
    try:
        one = re.compile(translate(spelt))
    except re.error:
        return False
    return all(one.match(chr(i)) for i in range(32) if chr(i) != "\n") and not (one.match('"') and one.match("\\"))


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
def _list_characters(name: str, first: int = 0) -> str:
    """The characters from `first` on that have a property, as ranges within brackets. Raises ValueError for none."""
    import regex

    try:
        compiled = regex.compile(f"{name}+")
    except regex.error as error:
        raise ValueError(str(error)) from None
    runs = [found.span() for found in compiled.finditer(_all_characters(), first)]
    if not runs:
        raise ValueError(f"no character has {name}")
    return "".join(f"\\U{start:08x}-\\U{end - 1:08x}" for start, end in runs)


@lru_cache(maxsize=1)
def _all_characters() -> str:
    """All of Unicode in order; halves of characters are no text, and hold their places only."""
    return "".join(map(chr, range(0x110000)))
