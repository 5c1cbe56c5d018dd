"""Pieces of a summary in text, safe to be printed on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TextIO

from feynkac.base.errors import quote
from feynkac.base.escaping import escape


def shorten(text: str, width: int) -> str:
    """One line of at most `width` characters, with nothing in it that a terminal would obey."""
    flat = escape(text.replace("\n", "⏎"))
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def write_sample(sample: Any) -> str:
    """`str(sample)`, or its type where that raises."""
    try:
        return "".join([str(sample)])  # of a str of another class its characters
    except Exception:
        return quote(sample)


def print_text(text: str, *, file: TextIO | None = None) -> None:
    """Print `text` so that nothing in it but its line ends moves the cursor, whatever characters the terminal has."""
    stream = sys.stdout if file is None else file
    encoding = stream.encoding or "utf-8"
    print(escape(text, keep="\n").encode(encoding, "backslashreplace").decode(encoding), file=stream)


def draw_sparkline(values: Sequence[float], top: float) -> str:
    """One block a value, at most 60 of them, 0 to `top`."""
    shown = [values[i * len(values) // 60] for i in range(60)] if len(values) > 60 else values
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * value / max(top, 1e-12)))] for value in shown)
