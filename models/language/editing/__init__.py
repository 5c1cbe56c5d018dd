"""Edits of a forward pass: the contract, and the models that have them."""

from feynkac.models.language.editing.anatomy import Anatomy
from feynkac.models.language.editing.contract import (
    Bias,
    Change,
    Edit,
    Mechanical,
    Mechanism,
    Prepared,
    Span,
    Where,
)

__all__ = ["Anatomy", "Bias", "Change", "Edit", "Mechanical", "Mechanism", "Prepared", "Span", "Where"]
