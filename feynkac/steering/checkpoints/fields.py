"""The fields of our own observers, such as the recorder of a run, as trees."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def read_fields(thing: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """All fields of an object but those `without`; an object of ours among them is read in the same way."""
    return {
        name: read_fields(value) if _is_ours(value) else value
        for name, value in vars(thing).items()
        if name not in without
    }


def write_fields(thing: Any, saved: dict[str, Any]) -> None:
    """Give an object that was just made the fields that `read_fields` gave of another."""
    for name, value in saved.items():
        own = vars(thing).get(name)
        if _is_ours(own):
            write_fields(own, value)
        else:
            setattr(thing, name, value)


def _is_ours(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "feynkac" and hasattr(value, "__dict__")
