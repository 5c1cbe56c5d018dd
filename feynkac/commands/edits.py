"""Edits of the model as the command line names them: files, and parts of the prompt to be emphasised."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from feynkac.base.errors import ArgumentError, quote


def edit_model(lm: Any, files: Sequence[str], emphasis: Sequence[str]) -> Any:
    """`lm` with the edits of files, given as PATH or PATH:STRENGTH, and then with emphasis on parts of the prompt.

    Raises ArgumentError for a file that holds no edits, and for edits that do not fit the model.
    """
    from feynkac.models.edits import Emphasise

    edits = [edit for one in files for edit in _read(*_split(one))]
    if emphasis:
        edits.append(Emphasise(list(emphasis)))
    return lm.edited(*edits) if edits else lm


def _split(given: str) -> tuple[Path, float | None]:
    path, colon, number = given.rpartition(":")
    if not colon or os.path.exists(given):
        return Path(given), None
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise ArgumentError(
            f"--edit {given}: there is no such file, and {quote(number)} is no strength; write FILE:1.5, say"
        )
    return Path(path), strength


def _read(path: Path, strength: float | None) -> list[Any]:
    from feynkac.models.edits import Add, Direction, load_edits
    from feynkac.models.edits.saving import holds_edits

    if not os.path.isfile(path):
        raise ArgumentError(f"--edit {path}: there is no such file")
    if holds_edits(path):
        edits: Sequence[Any] = load_edits(path)
    else:
        direction = Direction.load(path)
        edits = [Add(direction, of=direction.of)]
    return [edit if strength is None else _scale(edit, strength) for edit in edits]


def _scale(edit: Any, factor: float) -> Any:
    if not any(part.name == "strength" for part in fields(edit)):
        raise ArgumentError(f"{quote(edit)} has no strength that could be changed by {factor:g}; leave it out")
    return replace(edit, strength=factor * edit.strength)
