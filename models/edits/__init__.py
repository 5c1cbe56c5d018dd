"""Edits of language models: what `lm.edited(...)` takes (see the README of this folder)."""

from feynkac.models.edits.activations import Activation, Add, Affine, Apply, ProjectOut
from feynkac.models.edits.attention import BiasAttention, Emphasise
from feynkac.models.edits.divergence import DivergentLM
from feynkac.models.edits.features import Clamp, Features
from feynkac.models.edits.saving import load_edits, save_edits
from feynkac.models.edits.scopes import Scope, Steps
from feynkac.models.edits.weights import Adapter, ScaleHeads, Shift
from feynkac.models.language.editing import Anatomy, Change, Edit, Prepared, Span, Where

__all__ = [
    "Activation", "Adapter", "Add", "Affine", "Anatomy", "Apply", "BiasAttention", "Change", "Clamp", "DivergentLM",
    "Edit", "Emphasise", "Features", "Prepared", "ProjectOut", "ScaleHeads", "Scope", "Shift", "Span", "Steps", "Where",
    "load_edits", "save_edits",
]  # fmt: skip
