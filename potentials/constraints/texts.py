"""Constraints that are finite automata over characters: `regex`, `choices`, and `length` in characters or words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from feynkac.base.errors import ArgumentError, ConstraintError
from feynkac.base.masks import TokenAutomaton
from feynkac.potentials.constraints.automata import expressions
from feynkac.potentials.constraints.automata.alphabet import ANY_CHAR, alphabet, matching
from feynkac.potentials.constraints.automata.nfa import CharDfa, Nfa, TooLarge, determinised
from feynkac.potentials.constraints.tokenwise import TokenFactor, short

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary


class TextConstraint(TokenFactor):
    """A finite automaton over characters; `build` makes it when it is first compiled for a vocabulary."""

    def __init__(self, name: str, build: Callable[[], CharDfa]) -> None:
        super().__init__(name)
        self._build = build
        self._dfa: CharDfa | None = None

    def _compile(self, vocabulary: Vocabulary) -> TokenAutomaton:
        from feynkac.potentials.constraints.automata.dfa import compiled  # brings numba, which takes its time to import

        self._dfa = self._dfa or self._build()
        return compiled(self._dfa, vocabulary, self.name)


def regex(pattern: str | re.Pattern[str]) -> TextConstraint:
    """The texts that match `pattern` as a whole, as `re.fullmatch` has it.

    Syntax and meaning are those of Python's `re`, inline flags and Unicode classes included. Anchors are not needed;
    ^ and \\A mean the start of the text, $ and \\Z its very end. Bytes that are no UTF-8 match nothing. Masks are exact
    for every vocabulary.

    Raises ConstraintError for wrong syntax; for look-around, back-references, possessive quantifiers, atomic and
    conditional groups, word boundaries and multi-line anchors; and, when it is compiled, for a pattern that matches
    nothing or is too large.
    """
    source, flags, tree = expressions.parsed(pattern)
    return TextConstraint(short(f"regex({source!r})"), lambda: expressions.compiled(source, flags, tree))


def choices(options: Iterable[str]) -> TextConstraint:
    """The texts that are exactly one of `options`, which may be prefixes of each other.

    Raises ArgumentError for no list of strings, ConstraintError for an empty one.
    """
    if isinstance(options, str):
        raise ArgumentError(f"choices({options!r}): give a list of strings, choices([{options!r}])")
    texts = sorted(set(options))
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ArgumentError(f"choices: {wrong[0]!r} is no string")
    if not texts:
        raise ConstraintError("choices([]): there is nothing to choose from; give at least one text")
    name = short(f"choices({texts!r})")
    return TextConstraint(name, lambda: _listed(texts, name))


def _listed(texts: list[str], name: str) -> CharDfa:
    """The trie of the texts."""
    nfa, known = Nfa(), {"": 0}
    start, end = nfa.new(), nfa.new()
    try:
        for text in texts:
            for i, char in enumerate(text):
                if text[: i + 1] not in known:
                    known[text[: i + 1]] = nfa.move(known[text[:i]], ((ord(char), ord(char) + 1),))
            nfa.free[known[text]].append(end)
        return determinised(nfa, start, end, name)
    except TooLarge:
        raise ConstraintError(
            f"{name}: {len(texts)} texts are too many for one automaton; "
            "ask for fewer at a time, or write what they have in common as a regex"
        ) from None


def characters(low: int, high: int | None) -> CharDfa:
    """Texts of `low` to `high` characters; a state is the number so far, capped at `low` where there is no `high`."""
    letters, _ = alphabet([ANY_CHAR])
    count = np.arange((low if high is None else high) + 1, dtype=np.int32)
    after = np.minimum(count + 1, low) if high is None else np.where(count < high, count + 1, -1)
    return CharDfa(after.astype(np.int32)[:, None], count >= low, letters)


def separated(low: int, high: int | None) -> CharDfa:
    """Texts of `low` to `high` words; a state is twice the number so far, plus 1 inside a word."""
    letters, (space, other) = alphabet([matching(r"\s", 0), matching(r"\S", 0)])
    count = np.arange((low if high is None else high) + 1, dtype=np.int32)
    begun = np.minimum(count + 1, low) if high is None else np.where(count < high, count + 1, -1)
    delta = np.full((2 * len(count), letters.n_classes), -1, dtype=np.int32)
    delta[0::2, space] = delta[1::2, space] = 2 * count[:, None]
    delta[0::2, other] = np.where(begun < 0, -1, 2 * begun + 1)[:, None]
    delta[1::2, other] = 2 * count[:, None] + 1
    return CharDfa(delta, np.repeat(count >= low, 2), letters)
