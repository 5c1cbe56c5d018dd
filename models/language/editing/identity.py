"""What tells edits from others where a saved run goes on: their kinds and their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
from torch import Tensor, nn

from feynkac.base.digests import digest, digest_weights


def identify_edits(edits: Iterable[Any]) -> list[str]:
    """The kind of each edit, and a number of what it holds.

    Of functions the names are told, of objects of other classes than dataclasses the classes: what else they hold may
    change as they like.
    """
    return [f"{type(edit).__name__} {digest(*_list_contents(edit))}" for edit in edits]


def _list_contents(thing: Any) -> Iterator[Any]:
    if isinstance(thing, Tensor):
        thing = thing.detach().cpu().double().numpy()
    if isinstance(thing, np.ndarray):
        yield from (thing.shape, np.ascontiguousarray(thing, np.float64).tobytes())
    elif isinstance(thing, nn.Module):
        yield digest_weights(thing.named_parameters())
    elif is_dataclass(thing) and not isinstance(thing, type):
        yield type(thing).__name__
        for part in fields(thing):
            yield part.name
            yield from _list_contents(getattr(thing, part.name))
    elif isinstance(thing, Mapping):
        yield from _list_items(pair for item in thing.items() for pair in item)
    elif isinstance(thing, list | tuple | range):
        yield from _list_items(thing)
    else:
        yield _name(thing)


def _list_items(things: Iterable[Any]) -> Iterator[Any]:
    for each in things:
        yield from _list_contents(each)
    yield "end"


def _name(thing: Any) -> Any:
    if isinstance(thing, bool | int | float | np.generic):
        return float(thing)
    if thing is None or isinstance(thing, str):
        return thing
    if isinstance(thing, Path):
        return thing.name  # the folder may have been moved
    return thing.__qualname__ if isinstance(thing, FunctionType | type) else type(thing).__qualname__
