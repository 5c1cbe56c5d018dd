"""Texts that are shown to people: what a terminal would obey rather than show is written as Python writes it.

Models write whatever is likely, and a control sequence in a text can recolour a terminal, rename its window, or make a
line look like another one. Whatever prints, logs or raises a text takes it from here.
"""

from __future__ import annotations

import unicodedata

_ESCAPED = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories of Unicode that a terminal may obey rather than show: controls, directions, surrogates, separators."""
_JOINERS = {"\u200c", "\u200d"}
"""Of these the scripts of Persian and Hindi, and some emoji, are made."""


def escape(text: str, keep: str = "") -> str:
    """`text` with each character that a terminal would obey, not show, as Python writes it, but for those of `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in keep or not _is_obeyed(char) else _write(char) for char in text)


def _is_obeyed(char: str) -> bool:
    return unicodedata.category(char) in _ESCAPED and char not in _JOINERS


def _write(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
