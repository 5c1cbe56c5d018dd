"""Edits of parameters: task vectors and heads scaled; only in the edited model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_dict
from feynkac.base.numbers import as_whole
from feynkac.models.edits.activations import write_edit
from feynkac.models.edits.scopes import Scope, check_scope, is_inside, name_scope, prepare_changes, read_factor
from feynkac.models.language.editing import Anatomy, Change, Mechanism, Prepared, Where
from feynkac.tensors import read_tensor


@dataclass(frozen=True, eq=False, repr=False)
class Shift:
    """A difference added to parameters: W + strength * difference (task vectors; Ilharco et al. 2023).

    `differences`: tensors by the dotted names of parameters, such as those of a fine-tuned model less its base; a
    negative strength takes away what was learned, as Safety Arithmetic does (Hazra et al. 2024). `share`: the part of
    the entries to keep, those of largest size in each parameter. Parameters that are tied to it change with it, unless
    they have a difference of their own. What is edited is copied, and the prompts of such a model share no batch with
    those of another. Raises ArgumentError for a parameter that does not exist.
    """

    differences: Mapping[str, Tensor]
    strength: float = 1.0
    share: float = 1.0

    def __repr__(self) -> str:
        return write_edit(self)

    def prepare(self, anatomy: Anatomy) -> Prepared:
        """See `feynkac.models.language.editing.Edit`."""
        strength, share = read_factor("the strength of weights", self.strength), read_factor("share", self.share)
        if not 0.0 < share <= 1.0:
            raise ArgumentError(f"share is {share}; it must be above 0 and at most 1")
        differences = as_dict(self.differences)
        if not differences or not all(isinstance(name, str) for name in differences):
            raise ArgumentError("differences are given as {name of a parameter: tensor}, of at least one")
        if strength == 0.0:
            return Prepared()
        given = {name: read_tensor(f"the difference of {name}", value) for name, value in differences.items()}
        return Prepared(weights={name: self._add(name, value, strength, share) for name, value in given.items()})

    def _add(self, name: str, difference: Tensor, strength: float, share: float) -> Callable[[Tensor], Tensor]:
        def change(weight: Tensor) -> Tensor:
            if weight.shape != difference.shape:
                raise ArgumentError(
                    f"the difference of {name} is {tuple(difference.shape)} and the parameter {tuple(weight.shape)}"
                )
            return weight + strength * _keep_largest(difference.to(weight), share)

        return change


def _keep_largest(values: Tensor, share: float) -> Tensor:
    if share == 1.0:
        return values
    kept = max(1, int(share * values.numel()))
    least = values.abs().flatten().kthvalue(values.numel() - kept + 1).values
    return values.where(values.abs() >= least, 0.0)


@dataclass(frozen=True, eq=False, repr=False)
class ScaleHeads:
    """What single heads give, times a factor: 0 takes a head out (Soteria; Banerjee et al. 2025).

    `factors`: by (layer, head). `scope` as in `feynkac.models.edits.scopes`.
    """

    factors: Mapping[tuple[int, int], float]
    scope: Scope = "all"

    def __repr__(self) -> str:
        return write_edit(self)

    def prepare(self, anatomy: Anatomy) -> Prepared:
        """See `feynkac.models.language.editing.Edit`."""
        check_scope(self.scope)
        by_layer: dict[int, Tensor] = {}
        factors = as_dict(self.factors)
        if factors is None:
            raise ArgumentError(f"factors is {quote(self.factors)}; give {{(layer, head): factor}}")
        for key, factor in factors.items():
            layer, head = key if isinstance(key, tuple) and len(key) == 2 else (None, None)
            number = as_whole(head)
            if layer is None or number is None or not 0 <= number < anatomy.heads:
                raise ArgumentError(f"{quote(key)} is no (layer, head): this model has heads 0..{anatomy.heads - 1}")
            found = anatomy.read_layer(layer)
            scale = by_layer.setdefault(found, torch.ones(anatomy.heads, anatomy.find_head_size(found), device="cpu"))
            scale[number] = read_factor(f"the factor of {key}", factor)
        changes = [
            Change(anatomy.name_output(layer), self._scale(scale.flatten()), "input")
            for layer, scale in by_layer.items()
        ]
        return prepare_changes(changes, self.scope)

    def find_mechanism(self, anatomy: Anatomy) -> Mechanism:
        """See `feynkac.models.language.editing.Mechanical`."""
        sizes = tuple(abs(read_factor("the factor", factor) - 1.0) for factor in self.factors.values())
        return Mechanism((name_scope(self.scope), tuple(self.factors)), sizes)

    def _scale(self, scale: Tensor) -> Callable[[Tensor, Tensor, Where], Tensor]:
        def act(value: Tensor, given: Tensor, where: Where) -> Tensor:
            return torch.where(is_inside(self.scope, where)[..., None], value * scale.to(value), value)

        return act
