"""Constraints that are finite automata over characters: `regex`, `choices`, and `length` in characters or words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from feynkac.base.errors import ArgumentError, ConstraintError
from feynkac.base.masks import TokenAutomaton
from feynkac.base.unicode import check_unicode
from feynkac.potentials.constraints.automata import expressions
from feynkac.potentials.constraints.automata.alphabet import ANY_CHAR, build_alphabet, match_characters
from feynkac.potentials.constraints.automata.nfa import CharDfa, Nfa, TooLarge, determinise
from feynkac.potentials.constraints.tokenwise import TokenFactor, shorten

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary


class TextConstraint(TokenFactor):
    """A finite automaton over characters; `build` makes it when the constraint is first compiled for a vocabulary."""

    def __init__(self, name: str, build: Callable[[], CharDfa]) -> None:
        super().__init__(name)
        self._build = build
        self._dfa: CharDfa | None = None

    def compile(self, vocabulary: Vocabulary) -> TokenAutomaton:
        from feynkac.potentials.constraints.automata.dfa import compile_dfa  # imports numba, which takes a while

        self._dfa = self._dfa or self._build()
        return compile_dfa(self._dfa, vocabulary, self.name)


def regex(pattern: str | re.Pattern[str]) -> TextConstraint:
    """The texts that match `pattern` as a whole, as `re.fullmatch` has it.

    Syntax and meaning are those of Python's `re`, inline flags and Unicode classes included. Anchors are not needed;
    ^ and \\A mean the start of the text, $ and \\Z its very end. Bytes that are no UTF-8 match nothing. Masks are exact
    for every vocabulary.

    Raises ConstraintError for wrong syntax; for look-around, back-references, possessive quantifiers, atomic and
    conditional groups, word boundaries and multi-line anchors; and, when it is compiled, for a pattern that matches
    nothing or is too large.
    """
    source, flags = expressions.check(pattern)
    return TextConstraint(shorten(f"regex({source!r})"), partial(expressions.build_dfa, source, flags))


def choices(options: Iterable[str]) -> TextConstraint:
    """The texts that are exactly one of `options`, which may be prefixes of each other.

    Raises ArgumentError for no list of strings, ConstraintError for an empty one.
    """
    if isinstance(options, str):
        raise ArgumentError(f"choices({options!r}): give a list of strings, choices([{options!r}])")
    texts = sorted(set(options))
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ArgumentError(f"choices: {wrong[0]!r} is no string")
    for text in texts:
        check_unicode(text, f"choices: {text!r}", ConstraintError)
    if not texts:
        raise ConstraintError("choices([]): there is nothing to choose from; give at least one text")
    name = shorten(f"choices({texts!r})")
    return TextConstraint(name, partial(build_choice, texts, name))


def build_choice(texts: list[str], name: str) -> CharDfa:
    """The automaton of a list of texts: their trie. Raises ConstraintError if it is too large."""
    nfa, known = Nfa(), {"": 0}
    start, end = nfa.add_state(), nfa.add_state()
    try:
        for text in texts:
            for i, char in enumerate(text):
                if text[: i + 1] not in known:
                    known[text[: i + 1]] = nfa.add_move(known[text[:i]], ((ord(char), ord(char) + 1),))
            nfa.free[known[text]].append(end)
        return determinise(nfa, start, end, name)
    except TooLarge:
        raise ConstraintError(
            f"{name}: {len(texts)} texts are too many for one automaton; "
            "ask for fewer at a time, or write what they have in common as a regex"
        ) from None


def build_character_count(low: int, high: int | None) -> CharDfa:
    """The automaton of `low` to `high` characters; a state is how many, capped at `low` where there is no `high`."""
    letters, _ = build_alphabet([ANY_CHAR])
    count = np.arange((low if high is None else high) + 1, dtype=np.int32)
    after = np.minimum(count + 1, low) if high is None else np.where(count < high, count + 1, -1)
    return CharDfa(after.astype(np.int32)[:, None], count >= low, letters)


def build_word_count(low: int, high: int | None) -> CharDfa:
    """The automaton of `low` to `high` words; a state is twice their number so far, plus 1 inside a word."""
    letters, (space, other) = build_alphabet([match_characters(r"\s", 0), match_characters(r"\S", 0)])
    count = np.arange((low if high is None else high) + 1, dtype=np.int32)
    next_word = np.minimum(count + 1, low) if high is None else np.where(count < high, count + 1, -1)
    delta = np.full((2 * len(count), letters.n_classes), -1, dtype=np.int32)
    delta[0::2, space] = delta[1::2, space] = 2 * count[:, None]
    delta[0::2, other] = np.where(next_word < 0, -1, 2 * next_word + 1)[:, None]
    delta[1::2, other] = 2 * count[:, None] + 1
    return CharDfa(delta, np.repeat(count >= low, 2), letters)
