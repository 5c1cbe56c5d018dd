"""A ruler as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from feynkac.base.escaping import escape
from feynkac.results.text import shorten
from feynkac.rulers.estimates import Estimate

if TYPE_CHECKING:
    from feynkac.rulers.measured import Measured, Ruler

COLUMNS = ("law", "reward", "KL, nats a text", "least KL", "nats a token", "distinct-1", "distinct-2", "tokens")
SHOWN = 5
"""Points of the frontier in a table."""
WIDEST = 32
"""Characters of a name."""


def write_table(ruler: Ruler) -> str:
    """See `Ruler.table`."""
    rows = [_write_row(row) for row in (ruler.base, *ruler.laws)]
    above = [tilt for tilt in ruler.frontier if tilt.strength > 0.0]
    picked = [above[(i + 1) * len(above) // SHOWN - 1] for i in range(SHOWN)] if above else []
    tilts = [
        [f"exp({tilt.strength:.3g} r) base", tell(tilt.reward), tell(tilt.kl), f"{tilt.kl.value:.2g}", *[""] * 4]
        for tilt in picked
    ]
    notes = [f"warning: {row.name}: {said}" for row in (ruler.base, *ruler.laws) for said in row.warnings] + [
        f"warning: {name}: not measured, the measurement was stopped" for name in ruler.missing
    ]
    said = f"{ruler.texts} texts of each law; least KL: that of any law with this mean reward (>: or more)"
    return "\n".join([*align([list(COLUMNS), *rows, *tilts]), "", said, *map(escape, notes)])


def _write_row(row: Measured) -> list[str]:
    name = shorten(str(row.name), WIDEST)
    if row.died:
        return [name, "died", *["-"] * (len(COLUMNS) - 2)]
    least = f"{'' if row.reached else '>'}{max(row.least_kl.value, 0.0):.2g}"
    shares = [f"{share:.2f}" for share in (row.distinct_1, row.distinct_2)]
    return [name, tell(row.reward), tell(row.kl), least, tell(row.fluency), *shares, str(row.forwarded_tokens)]


def tell(estimate: Estimate) -> str:
    """A number with its standard error, to the figures that this leaves it."""
    value, se = estimate.value, estimate.se
    if not math.isfinite(value):
        return f"{value}"
    if not math.isfinite(se) or se <= 0.0:
        return f"{value:.3g}"
    digits = max(0, 1 - math.floor(math.log10(se)))
    return f"{value:.{digits}f} ± {se:.{digits}f}"


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns: the first to the left, numbers to the right."""
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(wide[0]), *(cell.rjust(w) for cell, w in zip(row[1:], wide[1:], strict=True))]).rstrip()
        for row in rows
    ]
