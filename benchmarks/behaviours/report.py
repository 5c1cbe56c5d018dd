"""The tables and the picture of what was measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from behaviours.rows import Floor, Row, read_behaviour
from behaviours.texts import BEHAVIOURS
from feynkac.results.pictures.style import BLUE, INK, ORANGE, SETTINGS, SOFT, title
from feynkac.rulers.estimates import Estimate

COLUMNS = ("law", "reward", "KL, nats a text", "least KL", "nats a token", "distinct-2", "tokens a text")


def tell(estimate: Estimate) -> str:
    """A number with its standard error."""
    if not math.isfinite(estimate.value):
        return "∞"
    digits = 2 if estimate.se < 1.0 else 1
    return f"{estimate.value:.{digits}f} ± {estimate.se:.{digits}f}"


def write_table(rows: list[Row]) -> str:
    """Markdown, the numbers those of the picture; bold what no other law beats in both reward and KL."""
    front = find_front(rows)
    lines = ["| | " + " | ".join(COLUMNS) + " |", "| --- | --- |" + " ---: |" * (len(COLUMNS) - 1)]
    for i, row in enumerate(rows):
        name = f"**{row.name}**" if i in front else row.name
        least = f"{'' if row.reached else '>'} {max(row.least, 0.0):.2f}".strip()
        rest = [("-" if math.isnan(x) else f"{x:.2f}") for x in (row.fluency, row.distinct)]
        cells = [str(i + 1), name, tell(row.reward), tell(row.kl), least, *rest, f"{row.tokens:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def find_front(rows: list[Row]) -> list[int]:
    """The Pareto front: laws with more reward than all that pay less."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].kl.value)
    front, best = [], -math.inf
    for i in order:
        if rows[i].reward.value > best:
            best = rows[i].reward.value
            front.append(i)
    return front


def draw(found: dict[str, tuple[list[Row], Floor]], path: Path) -> None:
    """Reward against KL, a panel for each behaviour, laws by their numbers in the tables."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        figure = Figure(figsize=(9.6, 4.4), layout="constrained")
        for axes, (name, (rows, floor)) in zip(
            np.atleast_1d(figure.subplots(1, len(found))), found.items(), strict=True
        ):
            axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0.0)), np.square))
            above = floor.strengths >= 0.0
            axes.plot(floor.kls[above], floor.rewards[above], color=BLUE, linewidth=1.4)
            front = find_front(rows)
            axes.step([rows[i].kl.value for i in front], [rows[i].reward.value for i in front],
                      where="post", color=ORANGE, linewidth=0.8, alpha=0.5)  # fmt: skip
            for i, row in enumerate(rows):
                if math.isfinite(row.kl.value):
                    _mark(axes, str(i + 1), row, INK if row.name == "base" else ORANGE if i in front else SOFT)
            axes.set(xlabel="KL to the base, nats a text", ylabel=f"reward: {name}")
            axes.set_xlim(left=0.0)
            title(axes, name, [("exp(s reward) base", BLUE), ("Pareto front of the laws", ORANGE)])
        figure.savefig(path, dpi=110)


def _mark(axes: Any, number: str, row: Row, colour: str) -> None:
    x = max(row.kl.value, 0.0)
    axes.errorbar(x, row.reward.value, xerr=[[min(row.kl.se, x)], [row.kl.se]], yerr=row.reward.se, fmt="o",
                  color=colour, markersize=3, linewidth=0.5)  # fmt: skip
    axes.annotate(number, (x, row.reward.value), (3, 3), textcoords="offset points", color=colour, fontsize=7.5)


def report(folder: Path, picture: Path) -> None:
    """Print the tables, write all rows as JSON beside them, and draw the picture."""
    found = {name: read_behaviour(name, folder) for name in BEHAVIOURS if list(folder.glob(f"{name}_0_prompts.json"))}
    for name, (rows, _) in found.items():
        print(f"\n{name}\n\n{write_table(rows)}")
    rows = {name: [row.flat() for row in rows] for name, (rows, _) in found.items()}
    (folder / "rows.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(found, picture)
