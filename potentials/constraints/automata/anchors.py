r"""Anchors: places in a text, such as `^`, `$` and `\b`, told by the characters on both sides.

An anchor is met between two characters, and of the second one nothing is known yet. So what it asks of the next one is
a promise: the set of kinds that may follow, as the bits of an integer. Python's own engine is asked which.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from feynkac.potentials.constraints.automata.characters import Ranges, match_characters

END, FINAL, LINE, ASCII, WIDE, OTHER = (1 << i for i in range(6))
"""What may come next: the end, a line break that is the last character, one that is not, a word character of ASCII, any
other word character, any other character."""
ALL = END | FINAL | LINE | ASCII | WIDE | OTHER
START, BREAK = 0, FINAL | LINE
"""What may have come before, beside ASCII, WIDE and OTHER: nothing at all, a line break."""
_BEFORE = {START: "", BREAK: "\n", ASCII: "a", WIDE: "\u00e9", OTHER: "."}
_AFTER = {END: "", FINAL: "\n", LINE: "\na", ASCII: "a", WIDE: "\u00e9", OTHER: "."}


class Anchor(NamedTuple):
    """An anchor as it is written, and the flags that hold where it stands."""

    written: str
    flags: int


@lru_cache(maxsize=1024)
def allow_next(anchor: Anchor, before: int) -> int:
    """The kinds of what may come next where `anchor` holds behind a character of kind `before`."""
    pattern = re.compile(anchor.written, anchor.flags)
    allowed = 0
    for kind, example in _AFTER.items():
        text = _BEFORE[before] + example
        if pattern.match(text, len(_BEFORE[before])):
            allowed |= kind
    return allowed


def list_kinds(anchors: Iterable[Anchor]) -> dict[int, Ranges]:
    """The sets of characters that some anchors tell apart, the later ones parts of the earlier."""
    written = {anchor.written for anchor in anchors}
    kinds: dict[int, Ranges] = {}
    if written & {r"\b", r"\B"}:
        kinds |= {WIDE: match_characters(r"\w", 0), ASCII: match_characters(r"\w", re.ASCII)}
    return kinds | {BREAK: match_characters(r"\n", 0)} if written else kinds


def pass_promise(promise: int, kind: int) -> int:
    """What is promised behind a character of `kind`, where `promise` was made before it; 0 where that is broken."""
    if kind != BREAK:
        return ALL if promise & kind else 0
    return (ALL & ~END if promise & LINE else 0) | (END if promise & FINAL else 0)
