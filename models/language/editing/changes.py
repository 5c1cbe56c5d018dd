"""How often the tensors that edits hold were written to: what was read under an edit is of no use behind that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn


def count_changes(thing: Any) -> int:
    """How often the tensors in `thing`, in its fields, containers and modules, were changed in place.

    Changes through `.data` are not counted by torch, and what a function holds is not seen.
    """
    return sum(0 if each.is_inference() else each._version for each in _list_tensors(thing, set()))


def _list_tensors(thing: Any, seen: set[int]) -> Iterator[Tensor]:
    if id(thing) in seen or isinstance(thing, type | str | bytes):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, nn.Module):
        yield from (*thing.parameters(), *thing.buffers())
    elif isinstance(thing, Mapping):
        for each in list(thing.values()):
            yield from _list_tensors(each, seen)
    elif isinstance(thing, list | tuple | set | frozenset):
        for each in list(thing):
            yield from _list_tensors(each, seen)
    else:
        yield from _list_tensors(getattr(thing, "__dict__", {}), seen)
