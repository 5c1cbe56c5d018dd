"""Where words, sentences and steps of one's own end inside a growing text.

A boundary once found stays where it is in every continuation, and no new one appears before it. So a potential may
look at each of them exactly once, however the text was cut into tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias, cast

from feynkac.base.errors import ArgumentError, PotentialError, quote
from feynkac.base.lists import as_list
from feynkac.base.numbers import as_whole, read_steps

Boundary: TypeAlias = Literal["token", "word", "sentence", "end"]
BOUNDARIES: tuple[Boundary, ...] = ("token", "word", "sentence", "end")
Every: TypeAlias = int | Iterable[int] | Boundary | str | re.Pattern[str] | Callable[[str], Iterable[int]]
"""When a function is asked.

After every so many steps of the model; after these numbers of steps, such as range(20, 81, 20); at boundaries of the
text by their name; behind each occurrence of a separator such as a blank line, or of a pattern; or where a function of
the text says, which gives the lengths of the prefixes that are complete.
"""
STEPS = (range, tuple)
"""What numbers of steps are kept as."""
_ENDS = {
    # A word is over when white space follows it.
    "word": re.compile(r"\S(?=\s)"),
    # A sentence is over when white space follows its full stop (and closing quotes), when any other character
    # follows an ideographic one, and at the end of a line.
    "sentence": re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]+[」』”’]*(?=[^。！？」』”’])|\S(?=[^\S\n]*\n)"),
}


def boundaries(text: str, start: int, every: Every) -> list[int]:
    """Ends of the words, sentences or steps that are complete in `text`, as lengths of prefixes longer than `start`.

    Raises PotentialError for what a function of the user's returns, if it is no list of such lengths.
    """
    if isinstance(every, str) and every in _ENDS:
        return [match.end() for match in _ENDS[every].finditer(text, start)]
    if isinstance(every, str):
        return _find_all(text, start, every)
    if isinstance(every, re.Pattern):
        # What ends with the text may yet go on: "\n+" behind one line feed.
        ends = (match.end() for match in every.finditer(text, start))
        return [end for end in ends if start < end < len(text)]
    assert callable(every)
    return _ask(text, start, every)


def read_every(every: Any, what: str) -> Every:
    """`every`, as it is meant. Raises ArgumentError, for the potential `what`, for what says no boundary."""
    if isinstance(every, re.Pattern):
        if not isinstance(every.pattern, str):
            raise ArgumentError(f"{what}(every={quote(every)}): the pattern is one of bytes; compile a str")
        return every
    if isinstance(every, str) and (every in BOUNDARIES or (every and not any(map(str.isalnum, every)))):
        return every
    if callable(every):
        return cast(Callable[[str], Iterable[int]], every)
    steps = as_whole(every)
    if steps is None and isinstance(every, Iterable) and not isinstance(every, str | bytes):
        return read_steps(f"{what}: every", every)
    if steps is None or steps < 1:
        names = ", ".join(map(repr, BOUNDARIES))
        raise ArgumentError(
            f"{what}(every={quote(every)}): choose one of {names}, or a number of steps, at least 1, or several, such "
            "as range(20, 81, 20); or give a separator without letters, such as '\\n\\n', a compiled pattern such as "
            "re.compile('Step [0-9]+:'), or a function of the text that lists the lengths of its complete prefixes"
        )
    return steps


def tell_every(every: Every) -> tuple[Any, ...]:
    """`every` in plain values; nothing of a function of the user's."""
    if isinstance(every, re.Pattern):
        return every.pattern, every.flags
    return () if callable(every) else (every,)


def is_due(every: Every, steps: int) -> bool:
    """Whether a function is asked when so many `steps` have been taken, as far as these decide."""
    if isinstance(every, int):
        return steps % every == 0
    return steps in every if isinstance(every, STEPS) else every != "end"


def _find_all(text: str, start: int, separator: str) -> list[int]:
    ends = list[int]()
    while (at := text.find(separator, ends[-1] if ends else start)) >= 0:
        ends.append(at + len(separator))
    return ends


def _ask(text: str, start: int, every: Callable[[str], Iterable[int]]) -> list[int]:
    said = every(text)
    listed = as_list(said)
    ends = [None] if listed is None else [as_whole(end) for end in listed]
    if not all(end is not None and 0 <= end <= len(text) for end in ends):
        raise PotentialError(
            f"every={getattr(every, '__name__', type(every).__name__)} returned {quote(said, 80)} for a text of "
            f"{len(text)} characters; return the lengths of its complete prefixes"
        )
    return sorted({end for end in ends if end is not None and end > start})
