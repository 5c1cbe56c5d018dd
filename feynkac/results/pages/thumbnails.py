"""Samples as small pictures in the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.extras import needing
from feynkac.results.pictures.particles import pixels, stretch

EDGES = ((64, 128), (300, 80), (1000, 48))
"""So many pictures may have edges of so many pixels, which keeps a page within two megabytes or so."""
LEAST = 32


def draw_images(samples: Sequence[Any]) -> list[str]:
    """Images, of videos the middle frames, as data URIs; latents are stretched to the range that they share."""
    arrays = stretch([np.nan_to_num(pixels(sample)) for sample in samples])
    return [write_picture(array, find_edge(len(arrays))) for array in arrays]


def draw_molecules(texts: Sequence[str]) -> list[str | None]:
    """Drawings of molecules in SMILES as data URIs, None for texts that are none. Raises MissingExtra without rdkit."""
    from feynkac.results.pictures.molecules import draw_molecules as draw

    edge = 2 * find_edge(len(texts))
    return [None if (array := draw(text)) is None else write_picture(array, edge) for text in texts]


def find_edge(count: int) -> int:
    """The longest edge of `count` pictures, in pixels."""
    return next((edge for most, edge in EDGES if count <= most), LEAST)


def write_picture(array: NDArray[np.float64], edge: int) -> str:
    """A picture (H, W, C) from 0 to 1, made no larger than `edge`, as a data URI. Raises MissingExtra."""
    with needing("plot", "images are written by Pillow"):
        from PIL import Image
    levels = (array.clip(0.0, 1.0) * 255).round().astype(np.uint8)
    image = Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
    image.thumbnail((edge, edge))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
