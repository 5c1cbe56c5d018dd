"""Constraints that are finite automata over characters: `regex` and `choices`, and the base of the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, ConstraintError, quote, shorten
from feynkac.base.lists import as_list
from feynkac.base.masks import TokenAutomaton
from feynkac.base.unicode import check_unicode
from feynkac.potentials.constraints.automata import expressions
from feynkac.potentials.constraints.automata.alphabet import build_bytes
from feynkac.potentials.constraints.automata.listing import list_texts
from feynkac.potentials.constraints.automata.nfa import MAX_ENTRIES, CharDfa
from feynkac.potentials.constraints.automata.products import MAX_PLACES, share_text
from feynkac.potentials.constraints.tokenwise import TokenFactor

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary


class TextConstraint(TokenFactor):
    """A finite automaton over characters; `build` makes it, at the latest when it is compiled for a vocabulary."""

    def __init__(self, name: str, build: Callable[[], CharDfa]) -> None:
        super().__init__(name)
        self._build = build
        self._dfa: CharDfa | None = None

    def prepare(self) -> TextConstraint:
        """This constraint, with the automaton of characters made. Raises ConstraintError."""
        self._dfa = self._dfa or self._build()
        return self

    def compile(self, vocabulary: Vocabulary) -> TokenAutomaton:
        from feynkac.potentials.constraints.automata.dfa import compile_dfa  # imports numba, which takes a while

        return compile_dfa(self.dfa, vocabulary, self.name)

    @property
    def outline(self) -> TextConstraint:
        """Itself: it is a finite automaton."""
        return self

    def shares_text(self, others: Sequence[Any], most: int | None = None) -> bool | None:
        """Whether some text meets this constraint and all `others`; None where that is not known.

        `most`: places in the product of the automata that are looked at; 200,000 unless it is given.
        """
        texts = [other for other in others if isinstance(other, TextConstraint)]
        shared = share_text([constraint.dfa for constraint in (self, *texts)], MAX_PLACES if most is None else most)
        return shared if shared is False or len(texts) == len(others) else None

    def list_texts(self, most: int) -> list[str] | None:
        """All texts that meet it, None if there are more than `most`, or very long ones."""
        return list_texts(self.dfa, most)

    @property
    def dfa(self) -> CharDfa:
        """The automaton of characters."""
        dfa = self.prepare()._dfa
        assert dfa is not None
        return dfa

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_dfa": None}


@suggest_names()
def regex(pattern: str | re.Pattern[str]) -> TextConstraint:
    """The texts that match `pattern` as a whole, as `re.fullmatch` has it.

    Syntax and meaning are those of Python's `re`: inline flags, Unicode classes and the anchors ^, $, \\A, \\Z, \\b and
    \\B included, under (?m), too. Bytes that are no UTF-8 match nothing. Masks are exact for every vocabulary.

    Raises ConstraintError for wrong syntax; for look-around, back-references, possessive quantifiers, atomic and
    conditional groups; for half of a character (a lone surrogate); and for a pattern that matches nothing, or needs an
    automaton that takes more than a second or two to build.
    """
    source, flags = expressions.check(pattern)
    found = TextConstraint(shorten(f"regex({quote(source)})"), partial(expressions.build_dfa, source, flags))
    return found.define(source, int(flags)).prepare()


@suggest_names()
def choices(options: Iterable[str]) -> TextConstraint:
    """The texts that are exactly one of `options`, which may be prefixes of each other.

    The target is the model's law given one of them, and that is a law of whole texts, their ends included. Where
    `max_tokens` leaves room behind an answer, the probability that the model ends there counts; where the answer fills
    the limit it does not, for the text is cut there. So " yes" and " no" may come out otherwise with max_tokens=1 than
    with 5. For the posterior without the end leave no room, or ask `lm.score(prompt, options, end=False)`.

    Raises ArgumentError for no list of strings, ConstraintError for an empty one, for half of a character (a lone
    surrogate), and for millions of characters.
    """
    if (listed := as_list(options)) is None:
        shown = quote(options)
        example = f", choices([{shown}])" if isinstance(options, str) else ""
        raise ArgumentError(f"choices({shown}): give a list of strings{example}")
    if wrong := [option for option in listed if not isinstance(option, str)]:
        raise ArgumentError(f"choices: {quote(wrong[0])} is no string; give a list of strings")
    for option in listed:
        check_unicode(option, f"choices: {quote(option)}", ConstraintError)
    if not listed:
        raise ConstraintError("choices([]): there is nothing to choose from; give at least one text")
    texts = sorted(set(listed))
    name = shorten(f"choices({quote(texts)})")
    return TextConstraint(name, partial(build_choice, texts, name)).define(texts).prepare()


def build_choice(texts: Sequence[str], name: str) -> CharDfa:
    """The automaton of a list of texts: the trie of their bytes. Raises ConstraintError if it is too large."""
    spelt = [text.encode() for text in texts]
    letters, classes = build_bytes(b"".join({bytes(set(text)) for text in spelt}))
    nodes: dict[int, int] = {}
    ends = []
    for text in spelt:
        node = 0
        for byte in text:
            node = nodes.setdefault(256 * node + byte, len(nodes) + 1)
        ends.append(node)
        if (len(nodes) + 1) * letters.n_classes > MAX_ENTRIES:
            raise ConstraintError(
                f"{name}: {len(texts)} texts are too long, or too many, for one automaton; ask for fewer at a time, or "
                "write what they have in common as a regex"
            )
    accept = np.zeros(len(nodes) + 1, dtype=np.bool_)
    accept[ends] = True
    delta = np.full((len(nodes) + 1, letters.n_classes), -1, dtype=np.int32)
    node, byte = np.divmod(np.fromiter(nodes, dtype=np.int64, count=len(nodes)), 256)
    delta[node, np.array(classes)[byte]] = np.arange(1, len(nodes) + 1)
    return CharDfa(delta, accept, letters)
