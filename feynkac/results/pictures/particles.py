"""What the particles became: images, molecules, points in the plane, numbers, or texts with their probabilities."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError
from feynkac.base.escaping import escape
from feynkac.base.numbers import find_shape, to_float
from feynkac.results.pictures.style import BLUE, FAINT, GONE, INK, ORANGE, SOFT, percent, printable, title
from feynkac.results.ranking import rank_samples
from feynkac.results.result import Result

Kind: TypeAlias = Literal["images", "molecules", "points", "numbers", "texts"]
KINDS = ("images", "molecules", "points", "numbers", "texts")
Caption: TypeAlias = tuple[str, str, float | None]
"""What stands below an image, on the left and on the right, and its weight; None for what is no particle."""
CHANNELS = (1, 3, 4)
BARS, LINES, COLUMNS, HEIGHT = 12, 3, 90, 43.0
"""Texts shown, lines of each, characters of a line, and lines for which there is room."""
STEM, GAP = 0.34, 1.1
"""What stands below an image, and the distance from one to the next, in widths of an image."""


def kind_of(samples: Sequence[Any]) -> Kind:
    """How samples are best drawn: as texts, unless all are of one other kind. Molecules cannot be told from texts."""
    kinds: set[Kind] = {_find_kind(each) for each in samples}
    return kinds.pop() if len(kinds) == 1 else "texts"


def _find_kind(sample: Any) -> Kind:
    shape, dtype = list(find_shape(sample)), getattr(sample, "dtype", None)
    real = dtype.kind in "biuf" if isinstance(dtype, np.dtype) else "complex" not in str(dtype)
    if hasattr(sample, "getbands") or (real and len(shape) in (3, 4) and shape[-3] in CHANNELS):
        return "images"
    if real and shape == [2]:
        return "points"
    number = isinstance(sample, int | float) and not isinstance(sample, bool)
    if not number and not (real and shape in ([1], []) and hasattr(sample, "item")):
        return "texts"
    return "numbers" if abs(_to_number(sample)) < 2.0**1023 else "texts"  # more than that no axis holds


def _to_number(sample: Any) -> float:
    return to_float(sample if isinstance(sample, int | float) else sample.item())


def draw(axes: Any, result: Result, kind: Kind, most: int, reference: Any = None) -> None:
    """Draw the samples of `result`, at most `most` of them where each has a place of its own.

    Raises ArgumentError for samples that are not of that kind.
    """
    if reference is not None and kind != "images":
        raise ArgumentError(f"plot(reference=...) is for images, but these samples are drawn as {kind}")
    how = {"molecules": _molecules, "points": _points, "numbers": _numbers, "texts": _texts}
    try:
        if kind == "images":
            _images(axes, result, most, reference)
        else:
            how[kind](axes, result, most)
    except (AttributeError, TypeError, ValueError, IndexError) as cause:
        if isinstance(cause, ArgumentError):
            raise
        raise ArgumentError(f"these samples cannot be drawn as {kind}: {cause}") from cause


def rank(result: Result) -> NDArray[np.int64]:
    """(N,) the rows, the heaviest first."""
    return np.argsort(-result.weights, kind="stable")


def _images(axes: Any, result: Result, most: int, reference: Any) -> None:
    rows = rank(result)[:most]
    given = [] if reference is None else [pixels(reference)]
    arrays = stretch(given + [pixels(result.samples[row]) for row in rows])
    weights = result.weights
    known = result.history.levels and len(result.history.levels[-1]) == len(weights)  # not if sweeps are pooled
    levels = result.history.levels[-1] if known else None
    captions: list[Caption] = [("given", "", None)] * len(given)
    for row, share in zip(rows.tolist(), weights[rows].tolist(), strict=True):
        captions.append((percent(share) if share else "dead", _level(levels, row), share))
    _grid(axes, arrays, captions)
    notes = [("weight", INK), ("level, nats", SOFT)] if levels is not None else [("weight", INK)]
    order = "the likeliest first" if weights.any() else "all dead"
    title(axes, f"{_count(len(rows), len(weights), 'particle')}, {order}", notes)


def _level(levels: Sequence[float] | None, row: int) -> str:
    return f"{round(levels[row], 1) + 0.0:.1f}" if levels is not None and math.isfinite(levels[row]) else ""


def _grid(axes: Any, arrays: Sequence[NDArray[Any]], captions: Sequence[Caption]) -> None:
    """Tiles with, below each, its weight as a bar and in figures, and its level."""
    height, width = arrays[0].shape[:2]
    aspect = height / width
    columns, colours = columns_for(len(arrays), aspect), iter([ORANGE])
    size, heaviest = min(8.5, 52.0 / columns), max(share or 0.0 for *_, share in captions) or 1.0
    for i, (array, (left, right, share)) in enumerate(zip(arrays, captions, strict=True)):
        x, y = i % columns * GAP, i // columns * (aspect + STEM)
        axes.imshow(
            array[..., 0] if array.shape[-1] == 1 else array, cmap="gray", vmin=0.0, vmax=1.0,
            interpolation="nearest" if max(array.shape[:2]) <= 64 else "antialiased",
            extent=(x, x + 1, y + aspect, y), alpha=0.25 if share == 0.0 else 1.0,
        )  # fmt: skip
        if share is not None:
            _bar(axes, x, y + aspect + 0.03, 1.0, FAINT)
            _bar(axes, x, y + aspect + 0.03, share / heaviest, next(colours, BLUE) if share else BLUE)
        axes.text(x, y + aspect + 0.11, left, size=size, va="top", color=INK if share else SOFT)
        axes.text(x + 1, y + aspect + 0.11, right, size=size, va="top", ha="right", color=SOFT)
    axes.set(xlim=(-0.02, columns * GAP), ylim=(math.ceil(len(arrays) / columns) * (aspect + STEM), -0.02))
    axes.set_aspect("equal", anchor="NW")
    axes.set_axis_off()


def _bar(axes: Any, x: float, y: float, length: float, colour: str) -> None:
    axes.fill([x, x + length, x + length, x], [y, y, y + 0.05, y + 0.05], color=colour, linewidth=0)


def columns_for(count: int, aspect: float) -> int:
    """The columns with which `count` tiles in a square come out largest; `aspect` is height over width of an image."""
    return max(range(1, count + 1), key=lambda c: min(1 / (c * GAP), 1 / (math.ceil(count / c) * (aspect + STEM))))


def _molecules(axes: Any, result: Result, most: int) -> None:
    from feynkac.results.pictures.molecules import draw_molecules

    entries = rank_samples(result.texts, result.weights)
    tiles = [(draw_molecules(text), percent(share), share) for text, share in entries[:most]]
    known = [(image, caption, share) for image, caption, share in tiles if image is not None]
    if not known:
        raise ArgumentError("plot(kind='molecules'): none of the samples is a molecule in SMILES")
    _grid(axes, [image for image, *_ in known], [(caption, "", share) for _, caption, share in known])
    title(axes, f"{_count(len(known), len(entries), 'molecule')}, the likeliest first", [("probability", INK)])


def _texts(axes: Any, result: Result, most: int) -> None:
    entries, y, top = rank_samples(result.texts, result.weights), 0.0, 0.0
    shown = entries[: min(most, BARS)]
    top = shown[0][1] if shown else 1.0
    for i, (text, share) in enumerate(shown):
        lines = textwrap.wrap(
            printable(escape(text.strip(), keep="\n\t")) or "(empty)",
            COLUMNS,
            max_lines=LINES,
            placeholder=" …",
            tabsize=4,
        )
        axes.text(0.0, y, percent(share), va="top", ha="right", color=INK, weight="bold")
        words = axes.text(0.02, y, "\n".join(lines), va="top", color=INK, linespacing=1.25, clip_on=True)
        words.set_in_layout(False)  # wide letters are cut off rather than squeeze the rest
        y += len(lines) + 0.45
        axes.plot([0.02, 1.0], [y, y], color=FAINT, linewidth=3, solid_capstyle="butt")
        axes.plot([0.02, 0.02 + 0.98 * share / top], [y, y], color=BLUE if i else ORANGE, lw=3, solid_capstyle="butt")
        y += 0.6
    if len(entries) > len(shown):
        rest = sum(share for _, share in entries[len(shown) :])
        axes.text(0.02, y, f"and {len(entries) - len(shown)} more, {percent(rest)}", va="top", color=SOFT)
        y += 1.5
    axes.set(xlim=(-0.1, 1.0), ylim=(max(y, HEIGHT), -0.5))
    axes.set_title("Posterior")
    axes.set_axis_off()


def _points(axes: Any, result: Result, most: int) -> None:
    points, weights = np.stack([_array(sample) for sample in result.samples]), result.weights
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"one has the shape {points.shape[1:]}, not (2,)")
    dead = weights == 0.0
    axes.scatter(*points[dead].T, s=10, c=GONE, linewidths=0)
    size = 12.0 + 300.0 * weights[~dead]
    axes.scatter(*points[~dead].T, s=size, c=BLUE, alpha=0.55, linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(title="Particles, area by weight", xlabel="x[0]", ylabel="x[1]")


def _numbers(axes: Any, result: Result, most: int) -> None:
    values, weights = np.array([_to_number(sample) for sample in result.samples]), result.weights
    bins = max(5, min(40, round(math.sqrt(len(values)) * 2)))
    axes.hist(values, bins=bins, weights=weights, color=BLUE, rwidth=0.92)
    mean = float(weights @ values)
    axes.axvline(mean, color=ORANGE, linewidth=1.4)
    axes.set(title=f"Posterior, mean {mean:.4g}", xlabel="sample", ylabel="probability")


def pixels(sample: Any) -> NDArray[np.float64]:
    """(H, W, C) float64 of an image (C, H, W) or of PIL; of a video (F, C, H, W) its middle frame."""
    if hasattr(sample, "getbands"):
        array = np.asarray(sample, dtype=np.float64) / 255
        return array[..., None] if array.ndim == 2 else array
    array = _array(sample)
    frame = array[len(array) // 2] if array.ndim == 4 else array
    return np.moveaxis(frame, 0, -1)


def stretch(arrays: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Images as they are; latents, which have no natural black and white, over the range that they share."""
    low, high = min(array.min() for array in arrays), max(array.max() for array in arrays)
    if low < -1e-3 or high > 1.001:
        return [(array - low) / ((high - low) or 1.0) for array in arrays]
    return arrays


def _array(sample: Any) -> NDArray[np.float64]:
    host = sample.detach().cpu().float().numpy() if hasattr(sample, "detach") else sample
    return np.asarray(host, dtype=np.float64)


def _count(shown: int, count: int, noun: str) -> str:
    some = f"{shown} of {count}" if shown < count else f"{count}"
    return f"{some} {noun}{'s' * (count > 1)}"
