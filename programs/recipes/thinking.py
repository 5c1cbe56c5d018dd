"""Think freely, then answer in a given form."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from feynkac.potentials import after, json_schema
from feynkac.programs.particle import Particle
from feynkac.programs.program import program

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM


@program
def think(
    p: Particle, lm: CausalLM, question: str, answer: Any, marker: str = "</think>\n\n", max_tokens: int = 400
) -> str:
    """The answer to `question`, of the form `answer` (a JSON schema, or a constraint), behind free thoughts.

        schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
        question = "What is 12 plus 30? Think in one sentence, then write JSON."
        feynkac.steer(think(lm, question, schema, marker="\\n", max_tokens=60), particles=32, seed=0).posterior()

    Exact: the text is the model's, given that `marker` comes in it and an answer of this form behind that (see
    `feynkac.after`). Only the answer is returned, so that the posterior sums over the thoughts. A particle whose
    thoughts leave no room within `max_tokens` dies.
    """
    form = _make(marker, json.dumps(answer) if isinstance(answer, dict) else answer)
    text = lm.context(chat=question)
    return p.sample(text.gen(form, max_tokens=max_tokens)).partition(marker)[2]


@lru_cache(maxsize=8)
def _make(marker: str, answer: Any) -> Any:
    """One constraint for all particles, so that it is compiled once."""
    return after(marker, json_schema(answer) if isinstance(answer, str) else answer)
