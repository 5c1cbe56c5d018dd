"""Numbers as text that a script reads without parsing it: the bytes of little-endian arrays in base64."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.escaping import escape

Packed: TypeAlias = dict[str, str]
"""The "kind" of the numbers, as in "u2" (unsigned, two bytes) or "f4", and their "data"."""


def pack(values: Any, kind: str) -> Packed:
    """The numbers `values`, of any shape, one after the other."""
    array = np.ascontiguousarray(values, dtype=f"<{kind}")
    return {"kind": kind, "data": base64.b64encode(array.tobytes()).decode("ascii")}


def pack_whole(values: Any) -> Packed:
    """Whole numbers from 0 on, in as few bytes as the largest needs."""
    array = np.asarray(values, dtype=np.int64)
    top = int(array.max(initial=0))
    return pack(array, "u1" if top < 1 << 8 else "u2" if top < 1 << 16 else "u4")


def join(lists: Sequence[Sequence[Any]], kind: type[np.generic]) -> NDArray[Any]:
    """The entries of all `lists`, one after the other."""
    return np.concatenate([np.asarray(each, dtype=kind) for each in lists] or [np.empty(0, dtype=kind)])


def fits(lists: Sequence[Sequence[Any]], sizes: Sequence[int]) -> bool:
    """Whether there is a list of each of these sizes, and not none at all."""
    return bool(sizes) and [len(each) for each in lists] == list(sizes)


def pack_words(lists: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The "words" in all `lists`, each distinct one once and with what would act shown escaped, and "which" each is."""
    number: dict[str, int] = {}
    which = [number.setdefault(word, len(number)) for each in lists for word in each]
    return {"words": [escape(word, keep="\n\t") for word in number], "which": pack_whole(which)}
