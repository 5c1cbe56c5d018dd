"""Edits of language models: what `lm.edited(...)` takes (see the README of this folder)."""

from feynkac.models.edits.activations import Activation, Add, Affine, Apply, ProjectOut
from feynkac.models.edits.adapters import Adapter
from feynkac.models.edits.attention import BiasAttention, Emphasise
from feynkac.models.edits.depth import SkipLayers
from feynkac.models.edits.divergence import DivergentLM
from feynkac.models.edits.features import Clamp, Features
from feynkac.models.edits.files import load_direction, save_direction
from feynkac.models.edits.fitting import (
    Activations,
    Direction,
    Example,
    Probe,
    capture,
    choose_layer,
    contrast_layers,
    decompose,
    describe,
    fit_affine,
    fit_direction,
    fit_function_vector,
    fit_prefix,
    fit_probe,
    invert,
    match_features,
    measure_attention,
    profile_effects,
    profile_heads,
    target_features,
)
from feynkac.models.edits.saving import load_edits, save_edits
from feynkac.models.edits.scopes import Scope, Steps
from feynkac.models.edits.weights import ScaleHeads, Shift
from feynkac.models.language.editing import Anatomy, Change, Edit, Mechanism, Prepared, Span, Where

__all__ = [
    "Activation", "Activations", "Adapter", "Add", "Affine", "Anatomy", "Apply", "BiasAttention", "Change", "Clamp",
    "Direction", "DivergentLM", "Edit", "Emphasise", "Example", "Features", "Mechanism", "Prepared", "Probe",
    "ProjectOut", "ScaleHeads", "Scope", "Shift", "SkipLayers", "Span", "Steps", "Where", "capture",
    "choose_layer", "contrast_layers", "decompose", "describe", "fit_affine", "fit_direction", "fit_function_vector",
    "fit_prefix", "fit_probe", "invert", "load_direction", "load_edits", "match_features", "measure_attention",
    "profile_effects", "profile_heads", "save_direction", "save_edits", "target_features",
]  # fmt: skip
