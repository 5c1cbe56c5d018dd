"""Text without certain letters."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from feynkac.base.numbers import read_whole
from feynkac.base.tokens import TokenSet
from feynkac.programs.particle import Particle
from feynkac.programs.program import program

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM


@program
def avoid(p: Particle, lm: CausalLM, prompt: str, letters: str = "e", max_tokens: int = 30) -> str:
    """A continuation of `prompt` without any of these letters, in either case.

        feynkac.steer(avoid(lm, "The weather today is"), particles=32, seed=0).show()

    Exact: that the next token is free of them is observed before the token is drawn, so that no particle runs into a
    wall, and its probability is in the weight. The target is the model's law given that the letters do not occur.
    """
    text = lm.context(prompt)
    end = TokenSet.where(lm.vocabulary, lm.vocabulary.eos)
    allowed = TokenSet.where(lm.vocabulary, forbid(letters)) | end
    max_tokens = read_whole("max_tokens", max_tokens, 1)
    while not text.ended and len(text) < max_tokens:
        p.observe(text.mask(allowed), True)
        p.sample(text.next_token())
    return str(text)


@lru_cache(maxsize=256)
def forbid(letters: str) -> Callable[[str], bool]:
    """Whether a token is free of `letters`, as a function that the vocabulary is asked by only once."""
    unwanted = set(letters.lower())
    return lambda token: unwanted.isdisjoint(token.lower())
