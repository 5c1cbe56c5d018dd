"""Potentials: constraints, rewards, and how they combine."""

from feynkac.potentials.base import Factor, as_potential, product
from feynkac.potentials.compat.genlm import from_genlm
from feynkac.potentials.constraints.canonical import canonical
from feynkac.potentials.constraints.counts import length, tokens
from feynkac.potentials.constraints.grammars import grammar
from feynkac.potentials.constraints.languages.ready import python, sql
from feynkac.potentials.constraints.lazy import lazy
from feynkac.potentials.constraints.parsers.constraint import parser
from feynkac.potentials.constraints.phrases import phrases
from feynkac.potentials.constraints.schemas.constraint import json_schema
from feynkac.potentials.constraints.sequels import after
from feynkac.potentials.constraints.texts import choices, regex
from feynkac.potentials.constraints.wfsa import wfsa
from feynkac.potentials.experts import expert, mixture
from feynkac.potentials.power import power
from feynkac.potentials.rewards.functions import constraint, reward
from feynkac.potentials.rewards.judging import judge
from feynkac.potentials.rewards.similarity import similarity
from feynkac.potentials.rewards.steps import process_reward
from feynkac.potentials.rewards.twists import twist

__all__ = [
    "Factor",
    "after",
    "as_potential",
    "canonical",
    "choices",
    "constraint",
    "expert",
    "from_genlm",
    "grammar",
    "json_schema",
    "judge",
    "lazy",
    "length",
    "mixture",
    "parser",
    "phrases",
    "power",
    "process_reward",
    "product",
    "python",
    "regex",
    "reward",
    "similarity",
    "sql",
    "tokens",
    "twist",
    "wfsa",
]
