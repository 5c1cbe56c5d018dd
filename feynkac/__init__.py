"""feynkac: exact steering of language models with sequential Monte Carlo.

import feynkac as fk

lm = fk.CausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
result = fk.steer(lm.prompt("The weather today is", max_tokens=30), fk.regex(r"[^eE]*"), particles=32)
result.show()
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent, unless an application listens

# Loaded on first use: `import feynkac` must not cost the seconds that torch and transformers take.
_HOMES = {
    "feynkac.steering.steer": ("steer",),
    "feynkac.steering.streaming": ("stream",),
    "feynkac.steering.asynchronous": ("steer_async", "stream_async"),
    "feynkac.smc.budgets": ("Budget",),
    "feynkac.steering.check": ("check",),
    "feynkac.steering.executors.local": ("LocalExecutor",),
    "feynkac.steering.executors.on_ray": ("RayExecutor",),
    "feynkac.steering.moves": ("redraw", "rejuvenate"),
    "feynkac.steering.checkpoints.saving": ("Checkpoint",),
    "feynkac.steering.checkpoints.resuming": ("resume",),
    "feynkac.steering.twists": ("markov_twist",),
    "feynkac.potentials.twists": ("TokenChain",),
    "feynkac.steering.bounds": ("bound_evidence", "EvidenceBounds"),
    "feynkac.rulers.ruler": ("ruler",),
    "feynkac.rulers.measured": ("Ruler",),
    "feynkac.results.result": ("Result",),
    "feynkac.results.explanation": ("Explanation",),
    "feynkac.results.history": ("History", "Timing"),
    "feynkac.results.pages": ("write_page",),
    "feynkac.base.errors": (
        "FeynkacError", "ArgumentError", "ModelError", "ModelLost", "ConstraintError", "PotentialError", "WeightError",
        "AllParticlesDied", "ProgramError", "ReplayDiverged",
    ),
    "feynkac.base.problems": ("Problem",),
    "feynkac.models.language.lm": ("CausalLM",),
    "feynkac.models.language.bytewise": ("bytewise",),
    "feynkac.models.language.ensembles": ("ensemble",),
    "feynkac.models.served": ("ServedLM",),
    "feynkac.models.diffusion.pipeline": ("Diffusion",),
    "feynkac.models.discrete.masked_lm": ("MaskedLM",),
    "feynkac.programs": (
        "program", "Bernoulli", "Categorical", "Geometric", "Normal", "Uniform", "Token",
    ),
    "feynkac.potentials": (
        "regex", "json_schema", "grammar", "choices", "tokens", "length", "after", "constraint", "reward", "power",
        "process_reward", "similarity", "judge", "twist", "product", "sql", "python", "phrases", "parser", "wfsa",
        "canonical", "lazy", "expert", "mixture",
    ),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [*_HOME, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from feynkac.base.errors import (
        AllParticlesDied as AllParticlesDied,
        ArgumentError as ArgumentError,
        ConstraintError as ConstraintError,
        FeynkacError as FeynkacError,
        ModelError as ModelError,
        ModelLost as ModelLost,
        PotentialError as PotentialError,
        ProgramError as ProgramError,
        ReplayDiverged as ReplayDiverged,
        WeightError as WeightError,
    )
    from feynkac.base.problems import Problem as Problem
    from feynkac.models.diffusion.pipeline import Diffusion as Diffusion
    from feynkac.models.discrete.masked_lm import MaskedLM as MaskedLM
    from feynkac.models.language.bytewise import bytewise as bytewise
    from feynkac.models.language.ensembles import ensemble as ensemble
    from feynkac.models.language.lm import CausalLM as CausalLM
    from feynkac.models.served import ServedLM as ServedLM
    from feynkac.potentials import (
        after as after,
        canonical as canonical,
        choices as choices,
        constraint as constraint,
        expert as expert,
        grammar as grammar,
        json_schema as json_schema,
        judge as judge,
        lazy as lazy,
        length as length,
        mixture as mixture,
        parser as parser,
        phrases as phrases,
        power as power,
        process_reward as process_reward,
        product as product,
        python as python,
        regex as regex,
        reward as reward,
        similarity as similarity,
        sql as sql,
        tokens as tokens,
        twist as twist,
        wfsa as wfsa,
    )
    from feynkac.potentials.twists import TokenChain as TokenChain
    from feynkac.programs import (
        Bernoulli as Bernoulli,
        Categorical as Categorical,
        Geometric as Geometric,
        Normal as Normal,
        Token as Token,
        Uniform as Uniform,
        program as program,
    )
    from feynkac.results.explanation import Explanation as Explanation
    from feynkac.results.history import History as History, Timing as Timing
    from feynkac.results.pages import write_page as write_page
    from feynkac.results.result import Result as Result
    from feynkac.rulers.measured import Ruler as Ruler
    from feynkac.rulers.ruler import ruler as ruler
    from feynkac.smc.budgets import Budget as Budget
    from feynkac.steering.asynchronous import steer_async as steer_async, stream_async as stream_async
    from feynkac.steering.bounds import EvidenceBounds as EvidenceBounds, bound_evidence as bound_evidence
    from feynkac.steering.check import check as check
    from feynkac.steering.checkpoints.resuming import resume as resume
    from feynkac.steering.checkpoints.saving import Checkpoint as Checkpoint
    from feynkac.steering.executors.local import LocalExecutor as LocalExecutor
    from feynkac.steering.executors.on_ray import RayExecutor as RayExecutor
    from feynkac.steering.moves import redraw as redraw, rejuvenate as rejuvenate
    from feynkac.steering.steer import steer as steer
    from feynkac.steering.streaming import stream as stream
    from feynkac.steering.twists import markov_twist as markov_twist


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'feynkac' has no attribute '{name}'", name=name, obj=sys.modules[__name__])
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
