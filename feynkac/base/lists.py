"""Lists and dicts as arguments: of any iterable and mapping, and of nothing that only looks like one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from feynkac.base.errors import ArgumentError, FeynkacError, quote


def as_list(value: Any) -> list[Any] | None:
    """What is in a list, an array, a tensor or any other iterable.

    None for a text, bytes, a dict, and an array without dimensions, which is an Iterable that has no entries. Raises
    ArgumentError where it raises as it is gone through.
    """
    if isinstance(value, str | bytes | bytearray | memoryview | Mapping) or not isinstance(value, Iterable):
        return None
    if getattr(value, "ndim", 1) == 0:
        return None
    try:
        return [*iter(value)]  # `list(value)` would ask for its length, which may be another
    except FeynkacError:
        raise
    except Exception as cause:
        raise ArgumentError(f"{quote(value)} cannot be gone through: it raises {quote(cause)}; give a list") from cause


def as_sequence(value: Any) -> list[Any] | None:
    """What is in a list, a tuple or another sequence, in its order; None for a text, and for all else.

    Raises ArgumentError where it raises as it is gone through.
    """
    return as_list(value) if isinstance(value, Sequence) else None


def as_dict(value: Any) -> dict[Any, Any] | None:
    """What is in a dict or another mapping; None for all else. Raises ArgumentError where it raises as it is read."""
    if not isinstance(value, Mapping):
        return None
    try:
        return dict(value.items())
    except Exception as cause:
        raise ArgumentError(f"{quote(value)} cannot be read: it raises {quote(cause)}; give a dict") from cause
