"""Where words and sentences end inside a growing text.

A boundary once found stays where it is in every continuation, and no new one appears before it. So a potential may
look at each of them exactly once, however the text was cut into tokens.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

Boundary: TypeAlias = Literal["token", "word", "sentence", "end"]
BOUNDARIES: tuple[Boundary, ...] = ("token", "word", "sentence", "end")

_ENDS = {
    # A word is over when white space follows it.
    "word": re.compile(r"\S(?=\s)"),
    # A sentence is over when white space follows its full stop (and closing quotes), when any other character
    # follows an ideographic one, and at the end of a line.
    "sentence": re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]+[」』”’]*(?=[^。！？」』”’])|\S(?=[^\S\n]*\n)"),
}


def boundaries(text: str, start: int, every: Boundary) -> list[int]:
    """Ends of the words or sentences that are complete in `text`, as lengths of prefixes longer than `start`."""
    return [match.end() for match in _ENDS[every].finditer(text, start)]
