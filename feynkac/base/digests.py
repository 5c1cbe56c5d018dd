"""Short numbers by which large things are told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

_VALUES = 8
"""Numbers of each weight that are looked at."""


def digest(*parts: Any) -> str:
    """A number of what stands in `parts`: bytes as they are, anything else as its repr."""
    found = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode("utf-8", "backslashreplace")
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()[:16]


def digest_weights(named: Iterable[tuple[str, Any]]) -> str:
    """A number of the parameters of a torch module: their names, shapes and types, and some entries of each.

    Of tensors of special kinds, such as quantised ones, the entries are not looked at.
    """
    parts: list[Any] = []
    for name, weight in named:
        parts += [name, tuple(weight.shape), str(weight.dtype)]
        size = weight.numel()
        if size and weight.is_floating_point() and type(weight.data).__name__ == "Tensor":
            at = [i * (size - 1) // (_VALUES - 1) for i in range(_VALUES)]
            parts.append(weight.data.reshape(-1)[at].tolist())
    return digest(*parts)
