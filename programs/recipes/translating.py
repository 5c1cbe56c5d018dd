"""Translation behind examples, with the terms of a glossary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from feynkac.base.errors import ArgumentError, quote
from feynkac.potentials import phrases
from feynkac.programs.particle import Particle
from feynkac.programs.program import program
from feynkac.programs.recipes.examples import write_turns

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM


@program
def translate(
    p: Particle,
    lm: CausalLM,
    source: str,
    glossary: Mapping[str, str] | None = None,
    examples: Sequence[tuple[str, str]] = (),
    into: str = "French",
    max_tokens: int = 60,
) -> str:
    """A translation of `source`, in one line, that uses the terms of `glossary` for those that `source` has.

        glossary = {"bank": "rive", "boat": "barque"}
        examples = [("The house is red.", "La maison est rouge."), ("I see a dog.", "Je vois un chien.")]
        task = translate(lm, "The boat lies at the bank.", glossary, examples)
        feynkac.steer(task, particles=32, seed=0).show()

    Exact: the model's law behind the `examples` (pairs of a source and its translation; `find_nearest` picks those that
    are like the source), given that it is one line, of at most `max_tokens`, in which all these terms stand as whole
    words, in any order, in upper or lower case. The evidence is the probability that the model uses the terms by
    itself. Masks see to it that the letters of each term come; a particle that writes them inside of a word only dies.

    After few-shot translation with terminology (Alves et al. 2023, Moslem et al. 2023), where terms are only asked for.
    Raises ArgumentError for a term that is empty.
    """
    terms = find_terms(source, glossary or {})
    asked = [(f"Translate into {into}: {text}", translation) for text, translation in examples]
    text = lm.context(chat=write_turns(asked, f"Translate into {into}: {source}"))
    translation = p.sample(text.gen(_make_line(terms), max_tokens=max_tokens)).strip()
    p.condition(all(_has_word(translation, term) for term in terms))
    return translation


def find_terms(source: str, glossary: Mapping[str, str]) -> tuple[str, ...]:
    """The translations of those terms of `glossary` that stand in `source` as whole words, case left aside."""
    if bad := [term for term, translation in glossary.items() if not term.strip() or not translation.strip()]:
        raise ArgumentError(
            f"glossary: {quote(bad[0])} or its translation {quote(glossary[bad[0]])} is empty; leave it out"
        )
    return tuple(translation for term, translation in glossary.items() if _has_word(source, term))


def _has_word(text: str, term: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(term)}(?!\w)", text, re.IGNORECASE) is not None


@lru_cache(maxsize=64)
def _make_line(terms: tuple[str, ...]) -> Any:
    """One constraint for all particles, so that it is compiled once."""
    return phrases(ban=["\n"], require=terms, ignore_case=True)
