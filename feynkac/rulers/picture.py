"""The picture of a ruler: what each law gains against what it pays."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.results.pictures.figure import matplotlib, png
from feynkac.results.pictures.style import BLUE, INK, ORANGE, SETTINGS, SOFT, printable, title
from feynkac.rulers.estimates import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from feynkac.rulers.measured import Ruler

SIZE = (7.0, 4.6)
"""Inches."""


def draw(ruler: Ruler) -> Figure:
    """See `Ruler.plot`."""
    figure_class, settings = matplotlib()
    with settings(SETTINGS):
        figure = figure_class(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        # A small tilt gains as the root of what it pays: so drawn, the frontier begins as a straight line.
        axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0.0)), np.square))
        steps = [(max(tilt.kl.value, 0.0), tilt.reward.value) for tilt in ruler.frontier]
        axes.plot(*zip(*steps, strict=True), color=BLUE, linewidth=1.4)
        laws = [row for row in ruler.laws if np.isfinite(row.kl.value)]
        for row, colour in [(ruler.base, INK), *((row, ORANGE) for row in laws)]:
            _mark(axes, printable(str(row.name)), row.kl, row.reward, colour)
        axes.set(xlabel="KL to the base, nats a text", ylabel="mean reward")
        axes.set_xlim(left=0.0)
        title(axes, "Reward against KL", [("exp(s reward) base, the best there is", BLUE), ("laws", ORANGE)])
    figure._repr_png_ = functools.partial(png, figure)  # type: ignore[attr-defined]
    return figure


def _mark(axes: Any, name: str, kl: Estimate, reward: Estimate, colour: str) -> None:
    """A law, with a standard error to each side where it is known."""
    x = max(kl.value, 0.0)
    wide, high = (0.0 if np.isnan(each.se) else each.se for each in (kl, reward))
    axes.errorbar(
        x, reward.value, xerr=[[min(wide, x)], [wide]], yerr=high, fmt="o", color=colour, markersize=4, linewidth=0.8
    )
    axes.annotate(name, (x, reward.value), (5, 4), textcoords="offset points", color=SOFT, fontsize=7.5)
