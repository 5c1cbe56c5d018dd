"""Arguments that are one of a few words."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def is_word(value: Any, words: Collection[str]) -> bool:
    """Whether `value` is one of some words. A list or an array is none of them, where `value in words` would raise."""
    return isinstance(value, str) and value in words
