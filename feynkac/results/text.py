"""Pieces of a summary in text."""

from __future__ import annotations

from collections.abc import Sequence


def shorten(text: str, width: int) -> str:
    flat = text.replace("\n", "⏎")
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def draw_sparkline(values: Sequence[float], top: float) -> str:
    """One block a value, at most 60 of them, 0 to `top`."""
    shown = [values[i * len(values) // 60] for i in range(60)] if len(values) > 60 else values
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * value / max(top, 1e-12)))] for value in shown)
