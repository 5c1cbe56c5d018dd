"""Tables of figures, and measurements in turns."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def table(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print one row a line; numbers with three digits."""
    print(f"\n{title}", flush=True)
    heads = list(rows[0])
    cells = [[_shown(row[head]) for head in heads] for row in rows]
    widths = [max(len(line[c]) for line in [heads, *cells]) for c in range(len(heads))]
    for first, *rest in [heads, *cells]:
        right = "  ".join(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        print(f"{first.ljust(widths[0])}  {right}", flush=True)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


def turns(repeats: int, *measures: Callable[[int], float]) -> list[list[float]]:
    """Rounds in which each measure has one turn; the first warms up and does not count."""
    rounds = []
    for seed in range(repeats + 1):
        rounds.append([measure(seed) for measure in measures])
        gc.collect()
    return rounds[1:]
