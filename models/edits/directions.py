"""Directions: a vector for each layer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_dict, as_list
from feynkac.base.numbers import as_real, as_whole
from feynkac.models.edits.sites import Site, check_site
from feynkac.tensors import read_tensor

if TYPE_CHECKING:
    from feynkac.models.edits.fitting.captures import At
    from feynkac.models.edits.fitting.methods import Method
    from feynkac.models.edits.fitting.passes import Written
    from feynkac.models.language.lm import CausalLM


class Direction(Mapping[int, Tensor]):
    """Vectors by layer, (d,) or (K, d) each, as `Add` and `ProjectOut` take them; never changed.

    Directions are added, subtracted and multiplied by numbers: `one + 0.5 * other`, layer by layer.

    `separation`: by layer, the share of held-out pairs of texts that the vector puts in order (0.5: none; see
    `fit_direction`), empty where it was not measured. `of`: where in a layer it was found, to be given on to the edit.
    `method`: how. Raises ArgumentError for what is no vector.
    """

    def __init__(
        self,
        vectors: Mapping[int, Any],
        separation: Mapping[int, float] | None = None,
        of: Site = "residual",
        method: str = "given",
    ) -> None:
        given = as_dict(vectors)
        if not given:
            raise ArgumentError(f"vectors is {quote(vectors)}; give {{layer: vector}}, for at least one layer")
        check_site(of)
        found = {
            layer: read_tensor(f"direction: layer {quote(layer)}", v).detach().to("cpu", torch.float32).clone()
            for layer, v in given.items()
        }
        for layer, vector in found.items():
            if as_whole(layer) is None or layer < 0 or vector.ndim not in (1, 2):
                raise ArgumentError(
                    f"direction: layer {quote(layer)} has {tuple(vector.shape)}; give {{layer: (d,) numbers}}"
                )
        self._vectors: Mapping[int, Tensor] = MappingProxyType(found)
        shares = {} if separation is None else as_dict(separation)
        if shares is None or not all(as_real(share) is not None for share in shares.values()):
            raise ArgumentError(f"separation is {quote(separation)}; give {{layer: share}}")
        self.separation: Mapping[int, float] = MappingProxyType(shares)
        self.of: Site = of
        self.method = method

    @classmethod
    def from_pairs(
        cls,
        lm: CausalLM,
        pairs: Iterable[tuple[Written, Written]],
        layers: int | Sequence[int] | None = None,
        *,
        at: At = "last",
        of: Site = "residual",
        method: Method = "difference",
        blocks: str | None = None,
    ) -> Direction:
        """The direction from the second to the first texts of pairs: `capture`, then `fit_direction`.

        Each text may be a (prompt, response) pair itself. Raises what these two do.
        """
        from feynkac.models.edits.fitting.captures import capture
        from feynkac.models.edits.fitting.directions import fit_direction

        listed = as_list(pairs)
        if listed is None or any(not isinstance(pair, tuple | list) or len(pair) != 2 for pair in listed):
            raise ArgumentError("pairs are given as [(a text that has it, one that has not), ...]")
        check_site(of)
        if of == "embedding":
            raise ArgumentError("of='embedding' depends on single tokens only; fit at a layer")
        sides = ([pair[side] for pair in listed] for side in (0, 1))
        toward, away = (capture(lm, texts, layers, at, of, blocks=blocks) for texts in sides)
        return fit_direction(toward, away, method=method)

    @property
    def best_layer(self) -> int:
        """The layer of the largest separation, the middle one of several. Raises ArgumentError if there is none."""
        if not self.separation:
            raise ArgumentError("no separation was measured of this direction; see choose_layer")
        top = max(self.separation.values())
        found = sorted(layer for layer, share in self.separation.items() if share == top)
        return found[len(found) // 2]

    def at(self, *layers: int | Iterable[int]) -> Direction:
        """The same at some of its layers only. Raises ArgumentError for others."""
        listed: list[Any] = []
        for some in layers:
            several = as_list(some)
            listed += [some] if several is None else several
        chosen = dict.fromkeys(map(as_whole, listed))
        if not chosen or any(layer not in self._vectors for layer in chosen):
            raise ArgumentError(f"the direction has no vector for all of {quote(listed)}; it has those of {list(self)}")
        found = {layer: self._vectors[layer] for layer in chosen if layer is not None}
        share = {layer: self.separation[layer] for layer in found if layer in self.separation}
        return Direction(found, share, self.of, self.method)

    def __add__(self, other: Mapping[int, Any]) -> Direction:
        """The sum, at each layer that one of both has. Raises ArgumentError for other places or widths."""
        if not isinstance(other, Mapping):
            return NotImplemented
        more, total = self._read(other), dict(self._vectors)
        if more.of != self.of:
            raise ArgumentError(
                f"directions of={quote(self.of)} and of={quote(more.of)} cannot be added: they act elsewhere"
            )
        for layer, vector in more._vectors.items():
            if layer in total and total[layer].shape != vector.shape:
                shapes = f"{tuple(total[layer].shape)} and {tuple(vector.shape)}"
                raise ArgumentError(f"directions of {shapes} at layer {layer} cannot be added; they are of two models")
            total[layer] = total[layer] + vector if layer in total else vector
        return Direction(total, None, self.of, "sum")

    def __sub__(self, other: Mapping[int, Any]) -> Direction:
        """As `one + -other`."""
        return self + -self._read(other) if isinstance(other, Mapping) else NotImplemented

    def __mul__(self, factor: float) -> Direction:
        """The vectors times a number. Raises ArgumentError for one that is not finite."""
        number = as_real(factor)
        if number is None:
            raise ArgumentError(f"a direction is multiplied by {quote(factor)}; give a finite number")
        share = self.separation if number > 0.0 else None  # elsewhere it puts no pair in order
        return Direction({layer: number * v for layer, v in self._vectors.items()}, share, self.of, self.method)

    def __truediv__(self, divisor: float) -> Direction:
        """The vectors divided by a number. Raises ArgumentError for 0 and for one that is not finite."""
        number = as_real(divisor)
        if not number:
            raise ArgumentError(f"a direction is divided by {quote(divisor)}; give a finite number other than 0")
        return self * (1.0 / number)

    def __neg__(self) -> Direction:
        return self * -1.0

    __radd__, __rmul__ = __add__, __mul__
    __array_ufunc__ = None  # else a scalar of numpy would take the layers' numbers for an array

    def _read(self, other: Mapping[int, Any]) -> Direction:
        return other if isinstance(other, Direction) else Direction(other, of=self.of)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as a safetensors file (see `feynkac.models.edits.files`)."""
        from feynkac.models.edits.files import save_direction

        save_direction(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Direction:
        """Read what `save` wrote, or a file of repeng or steering-vectors (see `load_direction`)."""
        from feynkac.models.edits.files import load_direction

        return load_direction(path)

    def __getitem__(self, layer: int) -> Tensor:
        return self._vectors[layer].clone()

    def __iter__(self) -> Iterator[int]:
        return iter(self._vectors)

    def __len__(self) -> int:
        return len(self._vectors)

    def __eq__(self, other: object) -> bool:
        return self is other  # tensors have no equality of one answer

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"Direction({self.method} at layers {list(self)})"


def read_direction(given: Any) -> Direction:
    """A `Direction` as it is, and one of any {layer: vector}. Raises ArgumentError for all else."""
    return given if isinstance(given, Direction) else Direction(given)
