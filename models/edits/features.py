"""Edits of sparse features: what an autoencoder of anyone's finds in activations, set to a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_dict
from feynkac.base.numbers import as_whole, read_whole
from feynkac.models.edits.activations import Activation
from feynkac.models.edits.scopes import read_factor
from feynkac.models.edits.sites import find_width
from feynkac.models.language.editing import Anatomy, Where


@runtime_checkable
class Features(Protocol):
    """A sparse autoencoder in float32: objects of sae-lens fit as they are."""

    def encode(self, x: Tensor, /) -> Tensor:
        """(..., K) features of (..., W) activations."""
        ...

    def decode(self, feature_acts: Tensor, /) -> Tensor:
        """(..., W) activations of (..., K) features."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Clamp(Activation):
    """Features set to values: h + strength * (decode(z') - decode(z)), where z' is z = encode(h) with them changed.

    What the autoencoder does not explain of h stays as it is (Templeton et al. 2024). `values`: by the numbers of
    features. With `only_active` a feature changes only where it is above 0 (SCAR; Haerle et al. 2024).
    Raises ArgumentError for a feature that does not exist, and for an autoencoder of another width.
    """

    features: Features = field(kw_only=False)
    values: Mapping[int, float] = field(kw_only=False)
    only_active: bool = False

    def check(self, anatomy: Anatomy, layers: Sequence[int]) -> None:
        """See `Activation.check`."""
        if not isinstance(self.features, Features):
            raise ArgumentError(f"features is {type(self.features).__name__}; it must have encode and decode")
        place = anatomy.model.get_input_embeddings().weight.device
        code = encode_zeros(self.features, find_width(anatomy, self.of, layers), place)
        values = as_dict(self.values)
        if not values:
            raise ArgumentError(f"values is {quote(self.values)}; give numbers by features, such as {{12: 0.0}}")
        for number, value in values.items():
            feature = as_whole(number)
            if feature is None or not 0 <= feature < code.shape[-1]:
                raise ArgumentError(f"feature {quote(number)} does not exist; there are 0..{code.shape[-1] - 1}")
            read_factor(f"the value of feature {number}", value)

    def change(self, value: Tensor, amount: Tensor, layer: int, where: Where) -> Tensor:
        """See `Activation.change`."""
        code = self.features.encode(put(value, self.features))
        changed = code.clone()
        for feature, to in self.values.items():
            old = code[..., feature]
            changed[..., feature] = torch.where(old > 0, float(to), old) if self.only_active else float(to)
        return value + amount * (self.features.decode(changed) - self.features.decode(code)).to(value)


def put(values: Tensor, features: Features) -> Tensor:
    """`values` on the device and in the dtype of an autoencoder's parameters; in float32 if it is no module."""
    first = next(features.parameters(), None) if isinstance(features, torch.nn.Module) else None
    return values.float() if first is None else values.to(first)


def encode_zeros(features: Features, width: int, device: torch.device | str = "cpu") -> Tensor:
    """(1, K) code of an activation of zeros. Raises ArgumentError for an autoencoder of another model or device."""
    width = read_whole("width", width, 1)
    try:
        with torch.no_grad():
            code = features.encode(put(torch.zeros(1, width, device=device), features))
            back = features.decode(code)
            whole = isinstance(code, Tensor) and code.ndim == 2 and isinstance(back, Tensor)
    except Exception as cause:
        raise ArgumentError(
            f"the autoencoder does not take activations of {width} numbers (float32, on {device}): {cause}"
        ) from cause
    if not whole:
        raise ArgumentError(f"the autoencoder gives {quote(code)} and {quote(back)}; both must be tensors of one row")
    if back.shape != (1, width):
        raise ArgumentError(
            f"the autoencoder gives {tuple(back.shape)} for activations (1, {width}): it belongs to another model"
        )
    return code
