"""Structured data out of a passage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from feynkac.programs.particle import Particle
from feynkac.programs.program import program

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM


@program
def extract(
    p: Particle,
    lm: CausalLM,
    passage: str,
    schema: Any,
    instruction: str = "Answer with the facts of this text, as JSON.",
    verbatim: bool = False,
    max_tokens: int = 60,
) -> str:
    """JSON under `schema`, from what `passage` says; with `verbatim` its strings must stand in the passage.

        passage = "On Monday Ada Lovelace, 36, arrived in London."
        fields = {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}}
        schema = {"type": "object", "properties": fields, "required": ["name", "age"], "additionalProperties": False}
        feynkac.steer(extract(lm, passage, schema, verbatim=True), particles=32, seed=0).posterior()

    Exact: the answers are those of the model given that they are valid (and verbatim), and the evidence is the
    probability of that, up to what is said of `feynkac.json_schema`. So the posterior of a field is the model's.
    """
    text = lm.context(chat=f"{passage}\n\n{instruction}")
    answer = p.sample(text.gen(json_schema=schema, max_tokens=max_tokens))
    if verbatim:
        p.condition(all(found in passage for found in _list_strings(json.loads(answer))))
    return answer


def _list_strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _list_strings(part)
