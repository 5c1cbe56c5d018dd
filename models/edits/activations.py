"""Edits of activations: a vector added, directions taken out, an affine map, a function of your own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.models.edits.scopes import (
    Scope,
    Strength,
    check_scope,
    is_inside,
    measure,
    name_scope,
    prepare_changes,
    read_strength,
)
from feynkac.models.edits.sites import Site, check_site, find_width, name_site
from feynkac.models.edits.vectors import Bases, check_place, read_vectors, take_vectors
from feynkac.models.language.editing import Anatomy, Change, Mechanism, Prepared, Where
from feynkac.tensors import read_tensor

Probe = Callable[[Tensor], Tensor]
"""From (F, Q, width) activations to (F, Q): a bool, or a factor of the strength."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Activation:
    """An edit of one or several layers' activations; derive from it with `change`.

    `layer`: a number, negative from the end, or several. `of`: what of the layer (see `Site`). `scope`: at which
    positions (see `Scope`). `strength`: a number or a schedule (see `Strength`); 0 leaves everything as it is, bit
    for bit. `when`: a probe, which sees the activation and says whether, or how much, the edit acts there.
    """

    layer: int | Sequence[int] | None = None
    of: Site = "residual"
    scope: Scope = "response"
    strength: Strength = 1.0
    when: Probe | None = None

    def __repr__(self) -> str:
        return write_edit(self)

    @abstractmethod
    def change(self, value: Tensor, amount: Tensor, layer: int, where: Where) -> Tensor:
        """(F, Q, W) new values. `amount` (F, Q, 1): how much at each token, 0 where the edit does not act."""

    def check(self, anatomy: Anatomy, layers: Sequence[int]) -> None:
        """Raises ArgumentError where the edit does not fit the model."""

    def prepare(self, anatomy: Anatomy) -> Prepared:
        """See `feynkac.models.language.editing.Edit`."""
        check_scope(self.scope)
        strength = read_strength(self.strength)
        if self.when is not None and not callable(self.when):
            raise ArgumentError(f"when is {quote(self.when)}; give a probe, such as fit_probe(...)")
        layers = self.find_layers(anatomy)
        self.check(anatomy, layers)
        if strength == 0.0:
            return Prepared()
        return prepare_changes([self._at(anatomy, layer, strength) for layer in layers], self.scope)

    def _name_mechanism(self, kind: Hashable, sizes: Iterable[float]) -> Mechanism | None:
        """That of an edit whose own numbers have `sizes` at strength 1; None where functions say how strong it is."""
        strength = read_strength(self.strength)
        if callable(strength) or self.when is not None:
            return None
        return Mechanism((name_scope(self.scope), kind), tuple(abs(strength) * size for size in sizes))

    def find_layers(self, anatomy: Anatomy) -> list[int]:
        """The layers by number. Raises ArgumentError where none is given, or one does not exist."""
        check_site(self.of)
        if self.of == "embedding":
            if self.layer is not None:
                raise ArgumentError("the embedding stands before all layers; leave out layer=")
            return [-1]
        if self.layer is None:
            raise ArgumentError(f"{type(self).__name__} needs layer=: a number, or a list of them")
        return anatomy.read_layers(self.layer)

    def _at(self, anatomy: Anatomy, layer: int, strength: Strength) -> Change:
        def act(value: Tensor, given: Tensor, where: Where) -> Tensor:
            inside = is_inside(self.scope, where)
            amount = inside.to(value.dtype) * measure(strength, where)
            if self.when is not None:
                amount = amount * _ask(self.when, value)
            return torch.where(
                inside[..., None], self.change(value, amount[..., None].to(value.dtype), layer, where), value
            )

        return Change(name_site(anatomy, layer, self.of), act, "input" if self.of == "heads" else "output")


def _ask(probe: Probe, value: Tensor) -> Tensor:
    found = probe(value)
    if not isinstance(found, Tensor) or found.shape != value.shape[:-1]:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ArgumentError(
            f"a probe gave {shape} for {tuple(value.shape)} activations; it must give one for each token"
        )
    return found.to(value.dtype)


def write_edit(edit: Any) -> str:
    """What was given of an edit that is a dataclass, tensors by their shapes."""
    own = [part for part in fields(edit) if getattr(edit, part.name) is not part.default]
    given = ", ".join(f"{part.name}={_write(getattr(edit, part.name))}" for part in own)
    return f"{type(edit).__name__}({given})"


def _write(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    return f"{{{', '.join(map(str, value))}}}" if isinstance(value, Mapping) else repr(value)


@dataclass(frozen=True, eq=False, repr=False)
class Add(Activation):
    """A vector added to activations: h + strength * direction (Turner et al. 2023; Rimsky et al. 2024).

    `direction`: (W,), one for each layer as a mapping such as `Direction`, or (K, W) for a `scope` of K positions, one
    row each, as ActAdd has it. With `keep_norm` the sum is scaled back to the length that h had (Liu et al. 2024).
    Without `layer` a mapping acts at all of its layers.
    """

    direction: Any = field(kw_only=False)
    keep_norm: bool = False

    def find_layers(self, anatomy: Anatomy) -> list[int]:
        """The layers given, or those of the directions."""
        if self.layer is None and isinstance(self.direction, Mapping):
            return anatomy.read_layers(list(self.direction))
        return super().find_layers(anatomy)

    def check(self, anatomy: Anatomy, layers: Sequence[int]) -> None:
        """Raises ArgumentError for a vector of another width or place, without numbers, or of length 0."""
        check_place(self.direction, self.of)
        for layer in layers:
            vector = read_vectors(self.direction, layer, anatomy, self.of)
            if vector.ndim == 2 and not (isinstance(self.scope, range) and len(self.scope) == len(vector)):
                raise ArgumentError(
                    f"{len(vector)} vectors need a scope of as many positions, range({len(vector)}); vectors "
                    "by layer are written dict(enumerate(vectors))"
                )

    def change(self, value: Tensor, amount: Tensor, layer: int, where: Where) -> Tensor:
        """See `Activation.change`."""
        vector = take_vectors(self.direction, layer).to(value)
        if vector.ndim == 2:
            assert isinstance(self.scope, range)
            vector = vector[(where.positions - self.scope.start).clamp(0, len(vector) - 1)]
        new = value + amount * vector
        if not self.keep_norm:
            return new
        return new * (value.norm(dim=-1, keepdim=True) / new.norm(dim=-1, keepdim=True).clamp_min(1e-12))

    def find_mechanism(self, anatomy: Anatomy) -> Mechanism | None:
        """See `feynkac.models.language.editing.Mechanical`."""
        vectors = [take_vectors(self.direction, layer).float() for layer in self.find_layers(anatomy)]
        sizes = [size for some in vectors for size in some.norm(dim=-1).flatten().tolist()]
        return self._name_mechanism((self.keep_norm, *(tuple(some.shape) for some in vectors)), sizes)


@dataclass(frozen=True, eq=False, repr=False)
class ProjectOut(Activation):
    """Directions taken out of activations: h - strength * P h, P being the projection on them (Arditi et al. 2024).

    `direction`: (W,) or (K, W), or a mapping from layers; what several span is taken out once,
    also where some say the same. Strength 1 leaves nothing of them, 2 reflects.
    """

    direction: Any = field(kw_only=False)

    def find_layers(self, anatomy: Anatomy) -> list[int]:
        """The layers given, or those of the directions."""
        if self.layer is None and isinstance(self.direction, Mapping):
            return anatomy.read_layers(list(self.direction))
        return super().find_layers(anatomy)

    @cached_property
    def _bases(self) -> Bases:
        return Bases()

    def check(self, anatomy: Anatomy, layers: Sequence[int]) -> None:
        """Raises ArgumentError for vectors of another width or place, without numbers, or of length 0."""
        check_place(self.direction, self.of)
        for layer in layers:
            read_vectors(self.direction, layer, anatomy, self.of, every=True)

    def change(self, value: Tensor, amount: Tensor, layer: int, where: Where) -> Tensor:
        """See `Activation.change`."""
        basis = self._bases.find(self.direction, layer).to(value)
        return value - amount * ((value @ basis) @ basis.T)

    def find_mechanism(self, anatomy: Anatomy) -> Mechanism | None:
        """See `feynkac.models.language.editing.Mechanical`; how long its directions are changes nothing."""
        vectors = [take_vectors(self.direction, layer) for layer in self.find_layers(anatomy)]
        return self._name_mechanism(tuple(tuple(some.shape) for some in vectors), [1.0])


@dataclass(frozen=True, eq=False, repr=False)
class Affine(Activation):
    """An affine map of activations: h + strength * (M h + b - h) (Singh et al. 2024, "Representation surgery").

    `matrix` (W, W), `offset` (W,), as `fit_affine` finds them. Each map is checked for itself at its first use, since a
    matrix may cancel what tells tokens apart.
    """

    matrix: Tensor = field(kw_only=False)
    offset: Tensor = field(kw_only=False)

    def check(self, anatomy: Anatomy, layers: Sequence[int]) -> None:
        """Raises ArgumentError for a map of another width."""
        width, (matrix, offset) = find_width(anatomy, self.of, layers), self._map
        if matrix.shape != (width, width) or offset.shape != (width,):
            raise ArgumentError(
                f"a map of {tuple(matrix.shape)} and {tuple(offset.shape)} for layers of {width}: it belongs "
                "to another model"
            )

    @cached_property
    def _map(self) -> tuple[Tensor, Tensor]:
        return read_tensor("the matrix", self.matrix), read_tensor("the offset", self.offset)

    def change(self, value: Tensor, amount: Tensor, layer: int, where: Where) -> Tensor:
        """See `Activation.change`."""
        matrix, offset = self._map
        return value + amount * (value @ matrix.to(value).T + offset.to(value) - value)


@dataclass(frozen=True, eq=False, repr=False)
class Apply(Activation):
    """A function of your own: h + strength * (function(h) - h), for (F, Q, W) activations h, token by token.

    The function may look at each token's activation, and at nothing else: not at its place in the tensor, not at other
    rows. The self-check of the caches refuses most that do.
    """

    function: Callable[[Tensor], Tensor] = field(kw_only=False)

    def change(self, value: Tensor, amount: Tensor, layer: int, where: Where) -> Tensor:
        """See `Activation.change`."""
        return value + amount * (self.function(value) - value)
