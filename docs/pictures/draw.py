"""The pictures of docs/ideas.md, each from runs of a tiny model: `python docs/pictures/draw.py [FOLDER]`."""

from __future__ import annotations

import sys
from math import comb, exp
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import feynkac as fk

UP = 0.3
LENGTH = 10
GREY, ORANGE, BLUE = "#b0b0b0", "#d95f02", "#1f78b4"
# So that the same run gives the same file.
STYLE = {"svg.hashsalt": "feynkac", "svg.fonttype": "none", "font.size": 10}


class Paths:
    """N paths so far."""

    def __init__(self, steps: NDArray[Any]) -> None:
        self.steps = steps
        """(N, t)"""

    def __len__(self) -> int:
        return len(self.steps)

    def fork(self, rows: NDArray[np.int64]) -> Paths:
        return Paths(self.steps[rows])

    def extend(self, drawn: NDArray[Any]) -> Paths:
        return Paths(np.column_stack([self.steps, drawn]))


class Letters:
    """First b with probability 0.1, or else a; then x, all else being masked."""

    b = 0.1
    x = np.array([0.01, 0.9])
    """The probability of x behind a and behind b."""

    def init(self, n: int, rng: Any) -> Paths:
        return Paths(np.zeros((n, 0), np.int64))

    def step(self, t: int, state: Paths, rng: Any) -> tuple[Paths, NDArray[np.float64]]:
        if state.steps.shape[1] == 0:
            return state.extend((rng.uniform(len(state)) < self.b).astype(np.int64)), np.zeros(len(state))
        return state.extend(np.ones(len(state), np.int64)), np.log(self.x[state.steps[:, 0]])

    def done(self, state: Paths) -> NDArray[np.bool_]:
        return np.full(len(state), state.steps.shape[1] == 2)

    def share_of_a(self) -> float:
        """By Bayes' rule."""
        a, b = (1 - self.b) * self.x[0], self.b * self.x[1]
        return a / (a + b)


class Walk:
    """Steps of +1, with probability `UP`, and -1."""

    def init(self, n: int, rng: Any) -> Paths:
        return Paths(np.zeros((n, 0)))

    def step(self, t: int, state: Paths, rng: Any) -> tuple[Paths, NDArray[np.float64]]:
        return state.extend(np.where(rng.uniform(len(state)) < UP, 1.0, -1.0)), np.zeros(len(state))

    def done(self, state: Paths) -> NDArray[np.bool_]:
        return np.full(len(state), state.steps.shape[1] == LENGTH)

    def evidence(self) -> float:
        """E[exp(height of the end)]."""
        up = [comb(LENGTH, k) * UP**k * (1 - UP) ** (LENGTH - k) * exp(2 * k - LENGTH) for k in range(LENGTH + 1)]
        return sum(up)


class EndsHigh:
    """exp(the height of the end), foreseen as the height so far."""

    def level(self, t: int, state: Paths, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return state.steps[rows].sum(axis=1)

    def final(self, state: Paths, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return state.steps[rows].sum(axis=1)


def measure_masking() -> dict[str, float]:
    """The share of texts that begin with a."""
    result = fk.steer(Letters(), particles=1024, algorithm="importance", seed=0)
    begins = np.array([1 - sample.steps[0, 0] for sample in result.samples])
    return {
        "the model given x": Letters().share_of_a(),
        "masking alone": float(begins.mean()),
        "weighted particles": float(result.weights @ begins),
    }


def draw_masking() -> Figure:
    shares = measure_masking()
    figure, axes = _begin(5.6, 1.7)
    bars = axes.barh(list(shares), list(shares.values()), color=[BLUE, GREY, ORANGE])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlim=(0, 1), xlabel="share of texts that begin with a")
    axes.invert_yaxis()
    return figure


def draw_particles(particles: int = 24, seed: int = 1) -> Figure:
    heights: list[NDArray[np.float64]] = [np.zeros(particles)]

    def watch(step: Any) -> None:
        heights.append(step.state.steps.sum(axis=1))

    history = fk.steer(Walk(), EndsHigh(), particles=particles, seed=seed, observers=[watch]).history
    figure, axes = _begin(5.6, 3.0)
    shift = np.linspace(-0.3, 0.3, particles)
    lives = np.ones(particles, bool)
    for t in range(len(history.rows) - 1, -1, -1):
        parents = np.array(history.rows[t])
        for row, parent in enumerate(parents):
            ends = heights[t][parent] + shift[parent], heights[t + 1][row] + shift[row]
            axes.plot([t, t + 1], ends, color=ORANGE if lives[row] else GREY, lw=1, zorder=2 if lives[row] else 1)
        lives = np.isin(np.arange(particles), parents[lives])
    for t in history.resampled:
        axes.axvline(t, color="black", lw=0.5, ls=":")
    axes.set(xlabel="step (dotted: resampled)", ylabel="height", xlim=(0, LENGTH))
    return figure


def measure_evidence(runs: int = 400) -> dict[int, NDArray[np.float64]]:
    """Estimates of Z over the exact Z, by the number of particles."""
    truth = np.log(Walk().evidence())
    return {
        n: np.exp([fk.steer(Walk(), EndsHigh(), particles=n, seed=seed).log_evidence - truth for seed in range(runs)])
        for n in (2, 8, 32)
    }


def draw_evidence(runs: int = 400) -> Figure:
    figure, axes = _begin(5.6, 2.4)
    for (n, ratios), color in zip(measure_evidence(runs).items(), (GREY, BLUE, ORANGE), strict=True):
        error = ratios.std() / np.sqrt(runs)
        label = f"{n} particles: mean {ratios.mean():.2f} ± {error:.2f}"
        axes.hist(np.minimum(ratios, 4), bins=np.linspace(0, 4, 33), histtype="step", lw=1.5, color=color, label=label)
    axes.axvline(1, color="black", lw=0.5, ls=":")
    axes.set(xlabel="estimate of Z / exact Z (4: or more)", ylabel="runs", xlim=(0, 4))
    axes.legend(frameon=False)
    return figure


def _begin(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


PICTURES = {"masking.svg": draw_masking, "particles.svg": draw_particles, "evidence.svg": draw_evidence}


def save(folder: Path) -> None:
    with matplotlib.rc_context(STYLE):
        for name, draw in PICTURES.items():
            draw().savefig(folder / name, metadata={"Date": None})


if __name__ == "__main__":
    save(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
