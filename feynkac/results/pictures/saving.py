"""The samples of a result as files: images and videos, one each, and an index beside them."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError
from feynkac.base.extras import needing
from feynkac.base.paths import read_path
from feynkac.base.writing import replace_file, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from feynkac.results.result import Result

INDEX = "index.json"
FRAME = 125
"""Milliseconds for which a frame of a video is shown."""


def save_images(result: Result, folder: str | os.PathLike[str]) -> list[Path]:
    """What `Result.save_images` does."""
    place = read_path("folder", folder)
    try:
        names = save_samples(result.samples, place)
        replace(result, samples=names).to_json(place / INDEX)
    except OSError as cause:
        raise ArgumentError(f"cannot write to {place}: {cause}") from cause
    return [place / name for name in names]


def save_samples(samples: Sequence[Any], folder: Path) -> list[str]:
    """The names of the files in `folder` that the `samples` were written to: images as PNG, videos as GIF.

    Raises ArgumentError for samples that are neither, MissingExtra where Pillow is missing, and OSError.
    """
    with needing("plot", "images are written by Pillow"):
        from PIL import Image
    arrays = [_to_frames(sample, row) for row, sample in enumerate(samples)]
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for row, frames in enumerate(arrays):
        first, *others = [Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in frames]
        names.append(f"particle_{row:03d}.{'gif' if others else 'png'}")
        options: dict[str, Any] = {"save_all": True, "append_images": others, "duration": FRAME, "loop": 0}
        kind = "GIF" if others else "PNG"
        with replace_file(folder / names[-1]) as file:
            first.save(file, kind, **(options if others else {}))
    return names


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure of matplotlib in the form that the ending of `path` names, PNG if none does.

    Raises ArgumentError for an ending that matplotlib does not know, and where it cannot be written.
    """
    content, path = io.BytesIO(), read_path("path", path)
    ending = Path(path).suffix[1:].lower() or "png"
    try:
        figure.savefig(content, format=ending)
    except ValueError as cause:
        raise ArgumentError(f"{path}: {cause}") from cause
    write_atomically(path, content.getvalue())


def _to_frames(sample: Any, row: int) -> NDArray[np.uint8]:
    """(F, H, W, C) bytes of an image (C, H, W), of which F is 1, or of a video (F, C, H, W), from 0 to 1; or of PIL."""
    if hasattr(sample, "getbands"):
        return np.asarray(sample.convert("RGBA" if "A" in sample.getbands() else "RGB"))[None]
    array = sample.detach().float().cpu().numpy() if hasattr(sample, "detach") else np.asarray(sample)
    if array.ndim not in (3, 4) or array.shape[-3] not in (1, 3, 4) or array.dtype.kind not in "fiub":
        found = f"shape {array.shape}" if array.ndim else type(sample).__name__
        raise ArgumentError(
            f"the sample of row {row} is no image: {found}, where (C, H, W) or, of a video, (F, C, H, W) was expected, "
            "with 1, 3 or 4 channels from 0 to 1; texts are written by to_json"
        )
    frames = array if array.ndim == 4 else array[None]
    return (np.nan_to_num(frames.astype(np.float64)).clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
