"""Fitting of edits: activations captured, directions, maps and probes found (see the README of this folder)."""

from feynkac.models.edits.directions import Direction
from feynkac.models.edits.fitting.affine import fit_affine
from feynkac.models.edits.fitting.aiming import Effects, target_features
from feynkac.models.edits.fitting.attending import measure_attention
from feynkac.models.edits.fitting.captures import Activations, capture
from feynkac.models.edits.fitting.choosing import Description, choose_layer, contrast_layers, describe
from feynkac.models.edits.fitting.directions import fit_direction
from feynkac.models.edits.fitting.features import Decomposition, Matches, decompose, match_features
from feynkac.models.edits.fitting.heads import fit_function_vector
from feynkac.models.edits.fitting.inversion import Inversion, invert
from feynkac.models.edits.fitting.logistic import Probe, fit_probe
from feynkac.models.edits.fitting.prefixes import SoftPrompt, fit_prefix
from feynkac.models.edits.fitting.profiling import Example, HeadProfile, profile_effects, profile_heads

__all__ = [
    "Activations", "Decomposition", "Description", "Direction", "Effects", "Example", "HeadProfile", "Inversion",
    "Matches", "Probe", "SoftPrompt", "capture", "choose_layer", "contrast_layers", "decompose", "describe",
    "fit_affine", "fit_direction", "fit_function_vector", "fit_prefix", "fit_probe", "invert", "match_features",
    "measure_attention", "profile_effects", "profile_heads", "target_features",
]  # fmt: skip
