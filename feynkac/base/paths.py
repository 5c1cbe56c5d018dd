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
