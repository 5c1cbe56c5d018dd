"""What JSON holds in place of a sample: texts, numbers, lists and dicts."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from collections import deque
from collections.abc import Mapping, Set
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

import numpy as np

_AS_TEXT = (Decimal, Fraction, UUID, PurePath, datetime.timedelta, complex)
_MOMENTS = (datetime.date, datetime.time)


@runtime_checkable
class _Dumps(Protocol):
    """A model of pydantic, which knows what JSON has in its place."""

    __pydantic_fields__: Mapping[str, Any]

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def make_plain(value: Any) -> Any:
    """`value` in what JSON knows: objects by their fields, sets in order, moments as ISO 8601 has them.

    What is infinite or no number is a text, as are decimals, fractions, paths and bytes. Raises TypeError for objects
    that are none of these, and RecursionError for what holds itself.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return make_plain(value.value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, np.generic):
        return make_plain(value.item())
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, _MOMENTS):
        return value.isoformat()
    if isinstance(value, _AS_TEXT):
        return str(value)
    return _unpack(value)


def _unpack(value: Any) -> Any:
    """A container or an object, by what is in it."""
    if isinstance(value, list | tuple | deque):
        return [make_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {_make_name(name): make_plain(each) for name, each in value.items()}
    if isinstance(value, Set):
        return sorted((make_plain(each) for each in value), key=lambda each: (type(each).__name__, str(each)))
    if isinstance(value, np.ndarray):
        return make_plain(value.tolist())
    if isinstance(value, _Dumps):
        return make_plain(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: make_plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    raise TypeError(
        f"{type(value).__name__} is nothing that JSON knows; return text, numbers, lists, dicts or dataclasses"
    )


def _make_name(name: Any) -> str:
    """The name under which an entry of a dict is written: that of a number or of None is what JSON calls it."""
    plain = make_plain(name)
    if isinstance(plain, list | dict):
        raise TypeError(f"a key of type {type(name).__name__} is nothing that JSON knows; make it a text")
    return plain if isinstance(plain, str) else json.dumps(plain)
