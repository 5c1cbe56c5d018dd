"""Text in short words."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from feynkac.base.numbers import read_whole
from feynkac.base.tokens import TokenSet
from feynkac.programs.particle import Particle
from feynkac.programs.program import program

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM

_BETWEEN = re.compile(r"[\W\d_]+")


@program
def short_words(p: Particle, lm: CausalLM, prompt: str, longest: int = 5, max_tokens: int = 30) -> str:
    """A continuation of `prompt` in which no run of letters is longer than `longest`.

        feynkac.steer(short_words(lm, "The weather today is"), particles=32, seed=0).show()

    Exact: which tokens fit follows from how many letters the last word has so far; that the next one fits is observed
    before it is drawn, and weighs by its probability. Tokens that are parts of a character are left out.
    """
    text = lm.context(prompt)
    end = TokenSet.where(lm.vocabulary, lm.vocabulary.eos)
    max_tokens = read_whole("max_tokens", max_tokens, 1)
    while not text.ended and len(text) < max_tokens:
        room = longest - len(_BETWEEN.split(str(text))[-1])
        allowed = TokenSet.where(lm.vocabulary, bound_words(longest, room)) | end
        p.observe(text.mask(allowed), True)
        p.sample(text.next_token())
    return str(text)


@lru_cache(maxsize=1024)
def bound_words(longest: int, room: int) -> Callable[[str], bool]:
    """Whether a token adds at most `room` letters to the word before it, and has no word longer than `longest`."""

    def fits(token: str) -> bool:
        first, *others = _BETWEEN.split(token)
        return "\ufffd" not in token and len(first) <= room and all(len(word) <= longest for word in others)

    return fits
