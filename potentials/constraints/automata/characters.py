"""Sets of characters, as Python's regular expressions have them.

Python's engine knows what a letter is, and which letters differ in case alone. It is asked about all characters once
for each category, and where case does not count about the 2,900 that have case. The rest is arithmetic of ranges.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from re import (
    _constants as sre,  # pyright: ignore  # the parser is Python's own, so its syntax is exact
    _parser,  # pyright: ignore
)
from typing import Any, TypeAlias

import numpy as np

N_CHARS = 0x110000
Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""A set of characters: [low, high) ranges of code points, ascending, with gaps between them."""
ANY_CHAR: Ranges = ((0, N_CHARS),)
_BREAK: Ranges = ((10, 11),)
_CATEGORY = {
    sre.CATEGORY_DIGIT: r"\d",
    sre.CATEGORY_NOT_DIGIT: r"\D",
    sre.CATEGORY_SPACE: r"\s",
    sre.CATEGORY_NOT_SPACE: r"\S",
    sre.CATEGORY_WORD: r"\w",
    sre.CATEGORY_NOT_WORD: r"\W",
}
_BLOCK = 256


def match_characters(one_char: str, flags: int) -> Ranges:
    """All characters that a regular expression for one character matches."""
    ((op, arg),) = _parser.parse(one_char, flags)
    return match_class(op, arg, flags)


def match_class(op: Any, arg: Any, flags: int) -> Ranges:
    """All characters that a character or a class of them matches, in the form to which Python parses it."""
    if op is sre.ANY:
        return ANY_CHAR if flags & re.DOTALL else _complement(_BREAK)
    items = {sre.LITERAL: [(op, arg)], sre.NOT_LITERAL: [(sre.NEGATE, None), (sre.LITERAL, arg)]}.get(op, arg)
    return _match_items(tuple(items), flags & (re.IGNORECASE | re.ASCII))


@lru_cache(maxsize=1024)
def _match_items(items: tuple[Any, ...], flags: int) -> Ranges:
    negated = items[0][0] is sre.NEGATE
    found = _unite(span for op, arg in items[negated:] for span in _list_spans(op, arg, flags & re.ASCII))
    found = _complement(found) if negated else found
    if not flags & re.IGNORECASE:
        return found
    matches = re.findall(f"[{''.join(map(_spell, items))}]", _list_cased(), flags)
    return _unite([*_drop_cased(found), *((ord(char), ord(char) + 1) for char in matches)])


def _list_spans(op: Any, arg: Any, flags: int) -> Ranges:
    """The characters of one item of a class, where case counts."""
    if op is sre.CATEGORY:
        return _find_category(arg, flags)
    low, high = arg if op is sre.RANGE else (arg, arg)
    return ((low, high + 1),)


def _spell(item: tuple[Any, Any]) -> str:
    """One item of a class, written so that Python's engine reads it back.

    A character is written as a range: among others, the engine misses a single one beyond U+FFFF in its other case.
    """
    op, arg = item
    if op is sre.NEGATE:
        return "^"
    if op is sre.CATEGORY:
        return _CATEGORY[arg]
    low, high = arg if op is sre.RANGE else (arg, arg)
    return f"\\U{low:08x}-\\U{high:08x}"


@lru_cache(maxsize=1 << 14)
def list_variants(char: str) -> tuple[str, ...]:
    """The characters that are `char` where case does not count."""
    return tuple(re.findall(re.escape(char), _list_cased(), re.IGNORECASE)) or (char,)


@lru_cache(maxsize=1)
def _list_cased() -> str:
    """All characters that are another in upper or lower case, ascending."""
    every = _list_characters()
    blocks = (every[at : at + _BLOCK] for at in range(0, N_CHARS, _BLOCK))
    some = (block for block in blocks if not block == block.lower() == block.upper())
    return "".join(char for block in some for char in block if not char == char.lower() == char.upper())


def _drop_cased(ranges: Ranges) -> Ranges:
    return _complement(_unite([*_complement(ranges), *_list_cased_ranges()]))


@lru_cache(maxsize=1)
def _list_cased_ranges() -> Ranges:
    return _unite((ord(char), ord(char) + 1) for char in _list_cased())


@lru_cache(maxsize=12)
def _find_category(category: Any, flags: int) -> Ranges:
    return tuple(match.span() for match in re.finditer(f"{_CATEGORY[category]}+", _list_characters(), flags))


def _list_characters() -> str:
    return np.arange(N_CHARS, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")


def _unite(spans: Iterable[tuple[int, int]]) -> Ranges:
    united = list[tuple[int, int]]()
    for low, high in sorted(spans):
        if united and low <= united[-1][1]:
            united[-1] = united[-1][0], max(high, united[-1][1])
        else:
            united.append((low, high))
    return tuple(united)


def _complement(ranges: Ranges) -> Ranges:
    edges = [0, *(edge for span in ranges for edge in span), N_CHARS]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return tuple((low, high) for low, high in pairs if low < high)
