"""Results as the files that a command names: the ending says what is written, and what cannot be is told beforehand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feynkac.base.errors import ArgumentError
from feynkac.base.paths import check_file

if TYPE_CHECKING:
    from feynkac.results.result import Result

WHOLE, PAGE = ".json", ".html"
PICTURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".eps")


def check_outputs(paths: Sequence[Path], option: str = "--out") -> None:
    """Find out before a run, not after it, that a file of `paths` cannot be written.

    Raises ArgumentError, and MissingExtra where a picture is asked for and nothing can draw it.
    """
    for number, path in enumerate(paths):
        check_file(path, f"{option} {path}")
        if path.suffix.lower() not in (WHOLE, PAGE, *PICTURES):
            known = ", ".join(PICTURES)
            raise ArgumentError(
                f"{option} {path}: its ending must be .json (all of the result), .html (an interactive page) or one of "
                f"{known}"
            )
        if any(path.absolute() == other.absolute() for other in paths[:number]):
            raise ArgumentError(f"{option} {path} is given twice; leave one out")
    if any(path.suffix.lower() in PICTURES for path in paths):
        from feynkac.results.pictures.figure import matplotlib

        matplotlib()


def check_folder(folder: Path, option: str) -> None:
    """Find out the same of a `folder` to write into, which is made, with those above it, where it is missing."""
    there = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
    if not os.path.isdir(there):
        raise ArgumentError(f"{option} {folder}: {there} is no folder; name a folder, new or old")
    if not os.access(there, os.W_OK):
        raise ArgumentError(f"{option} {folder} cannot be written: permission denied for {there}")


def write_outputs(result: Result, paths: Sequence[Path], names: Sequence[str] | None = None, **drawing: Any) -> None:
    """Write `result` to `paths`, all of it before its pictures.

    `names`: the files that images were written to, which stand for them in JSON; without it nothing does. `drawing`: as
    in `Result.plot`. Raises what `to_json` and `plot` raise.
    """
    from feynkac.results.pictures.saving import save_figure

    for path in sorted(paths, key=lambda each: each.suffix.lower() != WHOLE):
        if path.suffix.lower() == WHOLE:
            _name_images(result, names).to_json(path)
        elif path.suffix.lower() == PAGE:
            result.to_html(path, drawing.get("kind"))
        else:
            save_figure(result.plot(**drawing), path)


def _name_images(result: Result, names: Sequence[str] | None) -> Result:
    """`result` with names in place of images, which JSON cannot hold."""
    from feynkac.results.pictures.particles import kind_of

    if names is None and kind_of(result.samples) != "images":
        return result
    return replace(result, samples=list(names) if names is not None else [None] * len(result.samples))
