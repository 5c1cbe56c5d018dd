"""Which of the tensors that a network is given, and returns, have the rows of its batch; taking some, and joining them.

Whatever is nested in tuples, lists, dicts and outputs of diffusers is found. What is not a tensor goes to every part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

PLACES = re.compile(r"^(img_ids|txt_ids)$|rotary|rope")
"""Arguments that tell where each patch or token stands; without a dimension for the batch they have two at most."""
PLAIN = (type(None), bool, int, float, str)


def count_rows(given: Any, particles: int) -> int | None:
    """The rows of a network's batch in `given`, its arguments: the first size of the latents, which come first.

    None where these are no multiple of the `particles`: then its call is not about the particles.
    """
    leaves = pytree.tree_leaves(given)
    sizes = (len(x) for x in leaves if isinstance(x, Tensor) and x.ndim > 1 and x.is_floating_point())
    rows = next(sizes, 0)
    return rows if rows and rows % particles == 0 else None


def take_rows(args: Any, kwargs: dict[str, Any], rows: int, first: int, last: int) -> tuple[Any, dict[str, Any]]:
    """The arguments of a call for the rows from `first` to `last` of `rows`."""

    def take(name: str, value: Any) -> Any:
        return pytree.tree_map(lambda leaf: _take(name, leaf, rows, first, last), value)

    return take("", args), {name: take(name, value) for name, value in kwargs.items()}


def _take(name: str, leaf: Any, rows: int, first: int, last: int) -> Any:
    if not isinstance(leaf, Tensor) or leaf.ndim == 0 or (leaf.ndim <= 2 and PLACES.search(name)):
        return leaf
    if len(leaf) == rows:
        return leaf[first:last]
    if len(leaf) > rows and len(leaf) % rows == 0 and leaf.ndim > 2:
        return _take_blocks(leaf, rows, first, last)
    return leaf


def _take_blocks(leaf: Tensor, rows: int, first: int, last: int) -> Tensor:
    """Of a tensor with several entries for each row, such as the prompt once for each frame of a video.

    Only equal entries can tell in which order they are: those of a row together, or all rows again and again.
    """
    blocks = leaf.unflatten(0, (rows, -1))
    if torch.equal(blocks, blocks[:, :1].expand_as(blocks)):
        return blocks[first:last].flatten(0, 1)
    again = leaf.unflatten(0, (-1, rows))
    return again[:, first:last].flatten(0, 1) if torch.equal(again, again[:1].expand_as(again)) else leaf


class Joined:
    """What a network returns of all `rows`, put together from what it returns of parts of them.

    Each part is copied as it comes: a compiled network may write the next one to the same place.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._leaves = list[Any]()
        self._spec: Any = None

    @property
    def value(self) -> Any:
        """All of it, in the network's own form."""
        return pytree.tree_unflatten(self._leaves, self._spec)

    def add(self, returned: Any, first: int, last: int) -> None:
        """Put in what was `returned` of the rows from `first` to `last`. Raises TypeError for what has no rows."""
        found, spec = pytree.tree_flatten(returned)
        if self._spec is None:
            self._leaves, self._spec = [self._make(x, last - first) for x in found], spec
        if spec != self._spec:
            raise TypeError("it returns one thing for some of its rows, and another for others")
        for whole, part in zip(self._leaves, found, strict=True):
            if _has_rows(part, last - first):
                self._part(whole, first, last).copy_(part)
            elif not _is_same(whole, part):
                raise TypeError(f"it returns a {type(part).__name__} that is not the same for all of its rows")

    def pairs(self, returned: Any, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What is here of the rows from `first` to `last`, beside what was `returned` of them, each (rows, ...)."""
        for whole, part in zip(self._leaves, pytree.tree_leaves(returned), strict=True):
            if _has_rows(part, last - first):
                mine = self._part(whole, first, last)
                yield mine.unflatten(0, (last - first, -1)), part.unflatten(0, (last - first, -1))

    def _make(self, part: Any, size: int) -> Any:
        if not _has_rows(part, size):
            return part
        return part.new_empty((len(part) // size * self._rows, *part.shape[1:]))

    def _part(self, whole: Tensor, first: int, last: int) -> Tensor:
        each = len(whole) // self._rows
        return whole[first * each : last * each]


class Silence:
    """Zeros in the place of what a network has `returned` of so many `rows`, for any other number of them.

    `known`: whether it is told by that; not where there was more than tensors, such as a memory for later calls.
    """

    def __init__(self, returned: Any, rows: int) -> None:
        self._leaves, self._spec = pytree.tree_flatten(returned)
        self.known = all(isinstance(x, (Tensor, *PLAIN)) for x in self._leaves)
        self._leaves = [x.new_empty(()).expand(x.shape) if isinstance(x, Tensor) else x for x in self._leaves]
        self._rows = rows

    def of(self, rows: int) -> Any:
        """The same of so many rows."""
        return pytree.tree_unflatten([self._empty(leaf, rows) for leaf in self._leaves], self._spec)

    def _empty(self, leaf: Any, rows: int) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        more = (len(leaf) // self._rows * rows, *leaf.shape[1:]) if _has_rows(leaf, self._rows) else leaf.shape
        return leaf.new_zeros(more)


def _has_rows(leaf: Any, size: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) >= size and len(leaf) % size == 0


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    return one is other or (isinstance(one, PLAIN) and type(one) is type(other) and one == other)
