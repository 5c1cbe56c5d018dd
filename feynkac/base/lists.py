"""Lists as arguments: of any iterable, and of nothing that only looks like one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def as_list(value: Any) -> list[Any] | None:
    """What is in a list, an array, a tensor or any other iterable.

    None for a text, bytes, a dict, and an array without dimensions, which is an Iterable that has no entries.
    """
    if isinstance(value, str | bytes | bytearray | memoryview | Mapping) or not isinstance(value, Iterable):
        return None
    return None if getattr(value, "ndim", 1) == 0 else list(value)
