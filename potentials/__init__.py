"""Potentials: constraints, rewards, and how they combine."""

from feynkac.potentials.base import Factor, as_potential, product
from feynkac.potentials.compat.genlm import from_genlm
from feynkac.potentials.constraints.counts import length, tokens
from feynkac.potentials.constraints.grammars import grammar
from feynkac.potentials.constraints.schemas.constraint import json_schema
from feynkac.potentials.constraints.sequels import after
from feynkac.potentials.constraints.texts import choices, regex
from feynkac.potentials.power import power
from feynkac.potentials.rewards.functions import constraint, reward

__all__ = [
    "Factor",
    "after",
    "as_potential",
    "choices",
    "constraint",
    "from_genlm",
    "grammar",
    "json_schema",
    "length",
    "power",
    "product",
    "regex",
    "reward",
    "tokens",
]
