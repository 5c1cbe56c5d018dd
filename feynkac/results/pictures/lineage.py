"""The family tree of the particles, laid out so that no two lines cross."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Rows
from feynkac.results.pictures.style import BLUE, GONE, ORANGE

THICK, ROOM = 3.5, 100
"""Points by which a line that carries all of the final weight is wider; particles from which on lines get thinner."""


@dataclass(frozen=True)
class Forest:
    """Where each particle of each step stands; entry `t` of a list has one value for each of its N_t slots."""

    rows: list[Rows]
    """The parent of each slot, in the step before."""
    places: list[Rows]
    """Its rank from the top: slots are sorted by the rank of their parents, so that lines never cross."""
    mass: list[NDArray[np.float64]]
    """The share of the final weight that its descendants hold."""
    lives: list[NDArray[np.bool_]]
    """Whether any of its descendants has weight."""

    @property
    def events(self) -> list[int]:
        """The steps in which some slot has another slot for a parent, the first included."""
        moved = (t for t, rows in enumerate(self.rows) if not np.array_equal(rows, np.arange(len(rows))))
        return sorted({0, *moved})

    def path(self, row: int) -> Rows:
        """(T,) the slot of the ancestor of final `row` at every step."""
        slots = [row]
        for rows in self.rows[:0:-1]:
            slots.append(int(rows[slots[-1]]))
        return np.array(slots[::-1])


def forest(rows: Sequence[Sequence[int]], weights: NDArray[np.float64]) -> Forest:
    """The layout of `History.rows` for the final normalised `weights` (N,)."""
    parents = [np.asarray(each, dtype=np.int64) for each in rows]
    places = [np.arange(len(parents[0]))]
    for each in parents[1:]:
        order = np.argsort(places[-1][each], kind="stable")
        places.append(np.empty(len(each), dtype=np.int64))
        places[-1][order] = np.arange(len(each))
    mass, lives = [weights], [weights > 0.0]
    for t in range(len(parents) - 1, 0, -1):
        mass.append(np.bincount(parents[t], mass[-1], minlength=len(parents[t - 1])).astype(np.float64))
        lives.append(np.bincount(parents[t], lives[-1], minlength=len(parents[t - 1])) > 0)
    return Forest(parents, places, mass[::-1], lives[::-1])


class Branches(NamedTuple):
    """Lines of the tree, each from a parent to a child and on to the child's last step."""

    lines: NDArray[np.float64]
    """(B, 3, 2) steps and heights."""
    mass: NDArray[np.float64]
    """(B,) the share of the final weight that descends from each."""
    kind: NDArray[np.int64]
    """(B,) 0 for a line that died out, 1 for one that lives, 2 for the line of the best particle."""


def branches(tree: Forest, best: int | None) -> Branches:
    """As many lines as there are resamplings times particles: a slot that keeps its parent is one line."""
    lines, mass, kind = [], [], []
    events = [*tree.events, len(tree.rows)]
    path = None if best is None else tree.path(best)
    for start, end in pairwise(events):
        here = _heights(tree.places[start])
        before = here if start == 0 else _heights(tree.places[start - 1])[tree.rows[start]]
        times = np.array([max(start - 1, 0), start, end - 1], dtype=np.float64)
        lines.append(np.stack([np.broadcast_to(times, (len(here), 3)), np.stack([before, here, here], 1)], 2))
        mass.append(tree.mass[end - 1])
        kind.append(tree.lives[end - 1].astype(np.int64))
        if path is not None:
            kind[-1][path[start]] = 2
    return Branches(np.concatenate(lines), np.concatenate(mass), np.concatenate(kind))


def draw(axes: Any, tree: Forest, best: int | None) -> None:
    """Draw the tree; `best` is the row whose line stands out."""
    from matplotlib.collections import LineCollection

    lines, mass, kind = branches(tree, best)
    n = len(tree.rows[-1])
    thin = min(1.0, ROOM / n)
    for which, colour in enumerate((GONE, BLUE, ORANGE)):
        chosen = np.flatnonzero(kind == which)
        if not len(chosen):
            continue
        chosen = chosen[np.argsort(mass[chosen])]
        # What carries less than its share of the weight fades.
        strength = 0.35 + 0.65 * np.minimum(1.0, n * mass[chosen]) if which == 1 else 1.0
        axes.add_collection(
            LineCollection(
                list(lines[chosen]), colors=colour, alpha=strength, capstyle="round", joinstyle="round",
                linewidths=0.6 * thin if which == 0 else 0.9 * (thin if which == 1 else 1.0) + THICK * mass[chosen],
                zorder=1 + which,
            )
        )  # fmt: skip
    weights, colours = tree.mass[-1], np.where(tree.lives[-1], BLUE, GONE)
    if best is not None:
        colours[best] = ORANGE
    heights, last = _heights(tree.places[-1]), np.full(n, len(tree.rows) - 1)
    axes.scatter(last, heights, s=4.0 * thin + 60.0 * weights, c=colours, linewidths=0, zorder=4, clip_on=False)
    axes.set(ylim=(1.02, -0.02), yticks=[])
    axes.spines["left"].set_visible(False)


def _heights(places: Rows) -> NDArray[np.float64]:
    """From 0 at the top to 1; a lone particle stands in the middle."""
    return places / (len(places) - 1) if len(places) > 1 else np.full(len(places), 0.5)
