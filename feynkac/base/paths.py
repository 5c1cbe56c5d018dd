"""Paths as arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from feynkac.base.errors import ArgumentError, quote


def read_path(name: str, value: Any) -> Path:
    """`value` as the path of a file that there may be. Raises ArgumentError by the `name` of the argument."""
    try:
        if b"\0" not in os.fsencode(value):
            return Path(os.fsdecode(value))
    except Exception:  # no path, or with half of a character, or its `__fspath__` raises
        pass
    raise ArgumentError(f"{name} is {quote(value)}; give the path of a file or folder, as a text or a Path")


def check_file(path: Path, named: str) -> None:
    """Find out before a run that a file cannot be written. `named`: what the user calls it, its path included.

    Raises ArgumentError for a folder, a file in no folder, a name that no file can have, and one that must not be
    written.
    """
    if os.path.isdir(path):
        raise ArgumentError(f"{named} is a folder; name a file in it")
    if not os.path.isdir(path.absolute().parent):
        raise ArgumentError(f"{named}: there is no folder {path.parent}")
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as cause:
        raise ArgumentError(f"{named} cannot be written: {cause.strerror}") from None
    if not os.access(path if os.path.exists(path) else path.absolute().parent, os.W_OK):
        raise ArgumentError(f"{named} cannot be written: permission denied")
