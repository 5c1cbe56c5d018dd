"""How a run went, step by step: what the potentials foresaw, the effective sample size, the evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.results.pictures.lineage import Forest
from feynkac.results.pictures.style import BLUE, FAINT, ORANGE, SOFT, title

if TYPE_CHECKING:
    from feynkac.results.history import History


def levels(axes: Any, history: History, tree: Forest, best: int | None) -> None:
    """The levels of the particles alive: their median, where 80 % of them lie, and the best particle's own."""
    steps, spread = [], []
    for t, each in enumerate(history.levels):
        if len(alive := _finite(each)):
            steps.append(t)
            spread.append(np.percentile(alive, [10, 50, 90]))
    low, middle, high = np.array(spread).T
    axes.fill_between(steps, low, high, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(steps, middle, color=BLUE, linewidth=1.4)
    notes = [("median, 80 % of the living", BLUE)]
    if best is not None:
        own = [history.levels[t][slot] for t, slot in enumerate(tree.path(best))]
        axes.plot(own, color=ORANGE, linewidth=1.4)
        notes.append(("likeliest particle", ORANGE))
    title(axes, "Level: the weight foreseen, nats", notes)


def has_levels(history: History) -> bool:
    """Whether the potentials foresaw anything at all."""
    return any(np.ptp(alive) > 0.0 or alive[0] != 0.0 for each in history.levels if len(alive := _finite(each)))


def _finite(values: list[float]) -> Any:
    array = np.array(values)
    return array[np.isfinite(array)]


def effective(axes: Any, history: History, n: int) -> None:
    """Effective sample size with the resamplings, and how many first particles still have descendants."""
    axes.plot(history.unique_ancestors, color=SOFT, linewidth=1.0)
    axes.plot(history.ess, color=BLUE, linewidth=1.4)
    # A resampling opens its step: what it answered is the population of the step before.
    before = [t - 1 for t in history.resampled if t > 0]
    axes.plot(before, [history.ess[t] for t in before], "o", color=BLUE, markersize=3.5, markerfacecolor="white")
    axes.set(ylim=(0, n * 1.06), yticks=[0, n] if n < 4 else [0, n // 2, n])
    axes.axhline(n, color=FAINT, linewidth=0.8, zorder=0)
    notes = [("effective", BLUE), ("first ancestors", SOFT)]
    if before:
        notes.insert(1, ("○ resampled next", BLUE))
    title(axes, "Particles", notes)


def evidence(axes: Any, history: History, interval: tuple[float, float]) -> None:
    """The running estimate of the log evidence, and at its end where it is with 95 % probability; ^ is an open end."""
    values = np.array(history.log_evidence)
    steps = np.flatnonzero(np.isfinite(values))
    axes.plot(steps, values[steps], color=BLUE, linewidth=1.4)
    notes = []
    if len(steps):
        last, (low, high) = values[steps[-1]], interval
        open_end = not np.isfinite(high)
        notes = [(f"{last:.2f}, at least {low:.2f}" if open_end else f"{last:.2f}, {low:.2f} to {high:.2f}", BLUE)]
        axes.vlines(steps[-1], low, last if open_end else high, color=BLUE, linewidth=1)
        axes.plot(steps[-1], last, color=BLUE, marker="^" if open_end else "o", markersize=4)
    title(axes, "Log evidence so far, nats", notes)
