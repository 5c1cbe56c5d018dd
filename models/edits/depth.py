"""Edits of depth: layers that pass on what they are given, so that the model ends early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from feynkac.models.edits.activations import write_edit
from feynkac.models.edits.scopes import Scope, check_scope, is_inside, name_scope, prepare_changes
from feynkac.models.language.editing import Anatomy, Change, Mechanism, Prepared, Where


@dataclass(frozen=True, eq=False, repr=False)
class SkipLayers:
    """Layers left out: the residual passes through them as it is.

    Without the last layers it is the model's early exit, whose law is the logit lens (nostalgebraist 2020), an expert
    for DoLa (Chuang et al. 2024) and for the self-logits of VISTA (Li et al. 2025):

        early = lm.edited(SkipLayers(range(20, 30)))
        fk.ensemble([lm.prompt(text), early.prompt(text)], [1.0, -1.0], plausible=0.1)

    `scope` as in `feynkac.models.edits.scopes`; "all" by default. A skipped layer is run all the same, so that nothing
    is faster. Raises ArgumentError for layers that do not exist.
    """

    layers: int | Sequence[int]
    scope: Scope = "all"

    def __repr__(self) -> str:
        return write_edit(self)

    def prepare(self, anatomy: Anatomy) -> Prepared:
        """See `feynkac.models.language.editing.Edit`."""
        check_scope(self.scope)
        names = dict.fromkeys(anatomy.name_block(layer) for layer in anatomy.read_layers(self.layers))
        return prepare_changes([Change(name, self._skip) for name in names], self.scope)

    def find_mechanism(self, anatomy: Anatomy) -> Mechanism:
        """See `feynkac.models.language.editing.Mechanical`; it has no numbers."""
        return Mechanism(name_scope(self.scope), ())

    def _skip(self, value: Tensor, given: Tensor, where: Where) -> Tensor:
        return torch.where(is_inside(self.scope, where)[..., None], given, value)
