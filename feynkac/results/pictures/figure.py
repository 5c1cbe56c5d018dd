"""One figure of a result: the particles on the left, how they came about on the right."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.extras import needing
from feynkac.base.numbers import as_whole
from feynkac.base.words import is_word
from feynkac.results.history import History
from feynkac.results.pictures import lineage, particles, traces
from feynkac.results.pictures.style import SETTINGS, SOFT, title
from feynkac.results.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (13.0, 6.8)
"""Inches."""


def picture(result: Result, kind: particles.Kind | None = None, most: int = 64, reference: Any = None) -> Figure:
    """See `Result.plot`."""
    figure_class, settings = matplotlib()
    if kind is not None and not is_word(kind, particles.KINDS):
        raise ArgumentError(f"plot(kind={quote(kind)}): choose one of {', '.join(map(repr, particles.KINDS))}, or None")
    if (as_whole(most) or 0) < 1:
        raise ArgumentError(f"plot(most={quote(most)}): a number of particles to show, at least 1")
    with settings(SETTINGS):
        figure = figure_class(figsize=SIZE, layout="constrained")
        figure.get_layout_engine().set(wspace=0.04, w_pad=0.06, h_pad=0.05)
        left, right = figure.add_gridspec(1, 2)
        axes = figure.add_subplot(left)
        particles.draw(axes, result, kind or particles.kind_of(result.samples), most, reference)
        if result.history.rows:
            _run(figure, right, result)
        left.get_gridspec().set_width_ratios(_widths(axes))
    # A figure that pyplot does not know is shown by notebooks only if it says how.
    figure._repr_png_ = functools.partial(png, figure)  # type: ignore[attr-defined]
    return figure


def _run(figure: Any, place: Any, result: Result) -> None:
    """The family tree and the traces, over a common axis of steps."""
    swept = bool(result.history.sweeps)
    result = last_sweep(result) if swept else result
    history, best = result.history, find_heaviest(result)
    tree = lineage.forest(history.rows, result.weights)
    panels: list[Callable[[Any], None]] = [lambda axes: traces.effective(axes, history, len(result.samples))]
    if traces.has_levels(history):
        panels.insert(0, lambda axes: traces.levels(axes, history, tree, best))
    if not swept:  # conditional on a path, a sweep overestimates it
        panels.append(lambda axes: traces.evidence(axes, history, result.log_evidence_interval()))
    top, *others = place.subgridspec(1 + len(panels), 1, height_ratios=[3.0, *[1.0] * len(panels)])
    axes = figure.add_subplot(top)
    lineage.draw(axes, tree, best)
    title(axes, "Family tree" + " of the last sweep" * swept, [("width by final weight", SOFT)])
    axes.tick_params(bottom=False, labelbottom=False)
    axes.spines["bottom"].set_visible(False)
    below = [figure.add_subplot(other, sharex=axes) for other in others]
    for draw, each in zip(panels, below, strict=True):
        draw(each)
        each.tick_params(labelbottom=each is below[-1])
    below[-1].set_xlabel("step")
    below[-1].set_xlim(-0.2, max(len(history.rows) - 1, 1) + 0.2)
    below[-1].xaxis.get_major_locator().set_params(integer=True)


def last_sweep(result: Result) -> Result:
    """Of particle Gibbs, the last population with its own history."""
    start, n = result.history.sweeps[-1], len(result.history.rows[-1])
    history = result.history
    parts = {f.name: getattr(history, f.name)[start:] for f in fields(history) if f.name not in ("resampled", "sweeps")}
    resampled = [t - start for t in history.resampled if t >= start]
    own = History(**parts, resampled=resampled)
    return replace(result, samples=result.samples[-n:], log_weights=result.log_weights[-n:], history=own)


def _widths(axes: Any) -> tuple[float, float]:
    """Inches for the particles and for the run: a grid gets what its height lets it use."""
    width = 0.52 * SIZE[0]
    if axes.get_aspect() == 1.0 and not axes.axison:
        (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
        width = min(width, max(0.25 * SIZE[0], 0.95 * SIZE[1] * abs(x1 - x0) / abs(y1 - y0)))
    return width, SIZE[0] - width


def find_heaviest(result: Result) -> int | None:
    """The heaviest row of those that hold the likeliest sample; None if all have died."""
    weights = result.weights
    if not weights.any():
        return None
    best = result.best
    texts = isinstance(best, str)
    holds = [sample is best or (texts and isinstance(sample, str) and sample == best) for sample in result.samples]
    return int(np.argmax(np.where(holds, weights, -1.0)))


def matplotlib() -> tuple[Any, Any]:
    """The Figure class of matplotlib, and its context of settings. Raises MissingExtra where it is missing."""
    with needing("plot", "pictures are drawn by matplotlib"):
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    return Figure, rc_context


def png(figure: Any) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
