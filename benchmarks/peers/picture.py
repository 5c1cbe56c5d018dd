"""One picture of what was saved: tokens a second of each peer, on a logarithmic scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peers.registry import PEERS
from peers.tables import describe, group

SHOWN = ("no_e", "words", "json", "product", "critic", "costly", "power")
OURS = ("#d55e00", "#e69f00", "#f0e442", "#8c3b00", "#b8860b")
OTHERS = ("#999999", "#000000", "#0072b2", "#009e73", "#cc79a7", "#56b4e9")
COLOURS = dict(zip(PEERS, OURS + OTHERS, strict=True))
"""Those of Okabe and Ito, who chose them for all eyes, and two that are darker."""


def draw(told: dict[str, Any], file: Path) -> None:
    """Cases from above to below, peers as dots, more to the right is faster."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    cases = {name: rows for name, rows in group(told).items() if told["cases"][name]["task"] in SHOWN}
    cases = {name: [row for row in rows if "tokens/s" in row] for name, rows in cases.items()}
    cases = {name: rows for name, rows in cases.items() if len(rows) > 1 and told["cases"][name]["rounds"] < 10}
    figure = Figure(figsize=(8.0, 1.6 + 0.3 * len(cases)), layout="constrained")
    axes = figure.subplots()
    for y, rows in enumerate(cases.values()):
        axes.hlines(y, *_ends(rows), color="#dddddd", zorder=1)
    for peer in dict.fromkeys(row["peer"] for rows in cases.values() for row in rows):
        at = [(row["tokens/s"], y) for y, rows in enumerate(cases.values()) for row in rows if row["peer"] == peer]
        axes.scatter(*zip(*at, strict=True), s=36, color=COLOURS[peer], label=PEERS[peer].title, zorder=2)
    axes.set_yticks(range(len(cases)), [describe(told["cases"][name]) for name in cases], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("tokens a second, of all particles together")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(fontsize=8, loc="outside upper center", ncols=4, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def _ends(rows: list[dict[str, Any]]) -> tuple[float, float]:
    found = [row["tokens/s"] for row in rows]
    return min(found), max(found)
