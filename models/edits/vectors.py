"""Vectors as users have them: of Python, numpy or torch, one for all layers or one for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_dict
from feynkac.models.edits.directions import Direction
from feynkac.models.edits.sites import find_width
from feynkac.models.language.editing import Anatomy
from feynkac.tensors import read_tensor


def take_vectors(direction: Any, layer: int) -> Tensor:
    """(W,) or (K, W) of a layer, without its gradient; one row is one vector."""
    found = direction[layer] if isinstance(direction, Mapping) else direction
    found = read_tensor(f"the direction of layer {layer}", found).detach()
    return found[0] if found.ndim == 2 and len(found) == 1 else found


def check_place(direction: Any, of: str) -> None:
    """Raises ArgumentError for a direction that was found elsewhere in a layer than it is to act."""
    if isinstance(direction, Direction) and direction.of != of:
        raise ArgumentError(
            f"the direction was found of={quote(direction.of)} and the edit is of={quote(of)}; give "
            f"of={quote(direction.of)}, or the vectors alone, as dict(direction)"
        )


def read_vectors(direction: Any, layer: int, anatomy: Anatomy, of: str = "residual", *, every: bool = False) -> Tensor:
    """(W,) or (K, W) of a layer. Raises ArgumentError for another width, a length of 0, NaN, or no vector at all.

    `every`: whether each of K vectors must have a length, and not only one of them.
    """
    given = as_dict(direction) if isinstance(direction, Mapping) else direction
    try:
        vectors = take_vectors(given, layer)
    except (KeyError, ArgumentError) as fault:
        if isinstance(fault, ArgumentError) and "NaN" in str(fault):
            raise
        raise ArgumentError(f"{_write(direction)} has no vector for layer {layer}; {_tell_form(given)}") from None
    width = find_width(anatomy, of, [layer])
    if vectors.ndim not in (1, 2):
        raise ArgumentError(f"a direction is {tuple(vectors.shape)}; give ({width},), or {{layer: ({width},)}}")
    if vectors.shape[-1] != width:
        raise ArgumentError(
            f"a direction of {vectors.shape[-1]} numbers for layers of {width}: it belongs to another model"
        )
    long = vectors.float().reshape(-1, width).norm(dim=1) > 0
    if not (long.all() if every else long.any()):
        raise ArgumentError(f"the direction of layer {layer} has length 0")
    return vectors


def find_basis(vectors: Tensor) -> Tensor:
    """(W, R) float32 orthonormal columns that span (K, W) vectors, none of length 0.

    R is their rank: what one vector has beyond the others, if it may be rounding of their numbers, is no direction.
    """
    precision = vectors.dtype if vectors.is_floating_point() else torch.float32
    units = torch.nn.functional.normalize(vectors.double(), dim=1, eps=0.0)
    columns, sizes, _ = torch.linalg.svd(units.T, full_matrices=False)
    return columns[:, sizes > 2.0 * len(vectors) ** 0.5 * torch.finfo(precision).eps].float()


class Bases:
    """What the vectors of each layer span, found anew where they were written to."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[Tensor, Tensor]] = {}
        """The vectors as they were, and their basis."""

    @torch.inference_mode(False)  # it is kept, and may be differentiated through later
    def find(self, direction: Any, layer: int) -> Tensor:
        """(W, R) as `find_basis`."""
        vectors = take_vectors(direction, layer)
        known = self._found.get(layer)
        if known is None or known[0].device != vectors.device or not torch.equal(known[0], vectors):
            known = self._found[layer] = vectors.clone(), find_basis(vectors.reshape(-1, vectors.shape[-1]))
        return known[1]


def _write(direction: Any) -> str:
    return "the direction" if isinstance(direction, Mapping) else f"the direction {type(direction).__name__}"


def _tell_form(direction: Any) -> str:
    if not isinstance(direction, Mapping):
        return (
            "give a tensor, an array, or {layer: vector}, such as the directions of repeng's ControlVector or the "
            "layer_activations of a SteeringVector"
        )
    return f"it has those of {list(direction)}, counted from 0"
