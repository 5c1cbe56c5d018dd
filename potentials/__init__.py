"""What weighs: constraints, rewards, and how they combine."""

from feynkac.potentials.base import Factor, as_potential, product
from feynkac.potentials.counts import length, tokens
from feynkac.potentials.grammars import grammar, json_schema
from feynkac.potentials.rewards import constraint, reward
from feynkac.potentials.texts import choices, regex

__all__ = [
    "Factor",
    "as_potential",
    "choices",
    "constraint",
    "grammar",
    "json_schema",
    "length",
    "product",
    "regex",
    "reward",
    "tokens",
]
