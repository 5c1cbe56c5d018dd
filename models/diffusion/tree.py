"""A particle's state is one tree of per-row leaves, so that no array can be forgotten when particles fork."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from feynkac.base.capabilities import has
from feynkac.base.contract import Rows

SHARED: dict[str, Any] = {"shared": True}
"""Metadata of a field that is the same for all particles; every other field has one row a particle."""


@runtime_checkable
class Forks(Protocol):
    """Anything with one row a particle that can be gathered, such as what potentials remember."""

    def fork(self, rows: Rows) -> Any:
        """The rows of the population whose row `i` continues from `rows[i]`."""
        ...


def gather(value: Any, rows: Rows) -> Any:
    """The rows of a tensor, of an array, of anything with `fork`, or of each leaf of a dict of them; None stays None.

    Raises TypeError for anything else: a leaf that cannot be gathered would go stale in silence.
    """
    if isinstance(value, Tensor):
        return value.index_select(0, torch.as_tensor(rows, device=value.device))
    if isinstance(value, np.ndarray):
        return value[rows]
    if isinstance(value, Mapping):
        return {key: gather(leaf, rows) for key, leaf in value.items()}
    if value is None:
        return None
    if has(value, Forks):
        return value.fork(rows)
    raise TypeError(f"a {type(value).__name__} in the state of particles; it must be a tensor, an array, or can fork")


T = TypeVar("T", bound="Tree")


@dataclass
class Tree:
    """A dataclass whose fields are per-row leaves, unless their metadata is SHARED."""

    def fork(self: T, rows: Rows) -> T:
        """The population whose row `i` continues from `rows[i]`: every leaf is gathered by the same rows."""
        leaves = [f.name for f in fields(self) if not f.metadata.get("shared")]
        return replace(self, **{name: gather(getattr(self, name), rows) for name in leaves})


def with_row_0(rows: Tensor, given: Tensor) -> Tensor:
    """(N, ...) `rows` with `given` (...) in the first."""
    rows = rows.clone()
    rows[0] = given
    return rows
