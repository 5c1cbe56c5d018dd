"""Constraints that need a stack, enforced by llguidance: `grammar`, and the base of `json_schema`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from feynkac.base.errors import ArgumentError, ConstraintError, shorten, shorten_report
from feynkac.base.masks import TokenAutomaton
from feynkac.potentials.constraints.automata.listing import list_accepted
from feynkac.potentials.constraints.tokenwise import TokenFactor

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary


class GrammarConstraint(TokenFactor):
    """See `grammar`."""

    def __init__(self, lark: str, name: str) -> None:
        super().__init__(name)
        self._lark = lark

    def compile(self, vocabulary: Vocabulary) -> TokenAutomaton:
        return self._make(vocabulary, None)

    def list_texts(self, most: int) -> list[str] | None:
        """All texts that meet it, None if there are more than `most`, or very long ones."""
        return list_accepted(self, most)

    def _make(self, vocabulary: Vocabulary, outline: TokenAutomaton | None) -> TokenAutomaton:
        from feynkac.potentials.constraints.engines.llguidance.matchers import make_matcher  # brings llguidance
        from feynkac.potentials.constraints.engines.llguidance.table import GuideAutomaton

        return GuideAutomaton(make_matcher(vocabulary, self._lark, self.name), vocabulary, self.name, outline)


def find_fault(lark: str, trials: Iterable[str] = ()) -> str | None:
    """What llguidance says is wrong with a grammar, whatever the vocabulary; None where nothing is.

    `trials`: beginnings of texts behind which it must not run into a limit of its own.
    """
    from feynkac.potentials.constraints.engines.llguidance.matchers import try_grammar  # brings llguidance

    return try_grammar(lark, trials)


def grammar(lark: str) -> GrammarConstraint:
    """The texts of a grammar, in llguidance's dialect of Lark
    (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md).

    Rules are lower case, terminals upper case; the text derives from `start`, and no white space is skipped unless
    `%ignore` says so. `%json {...}` embeds a schema.

    One limit to know: it reads *terminals greedily*, left to right, before rules come into play. With
    `STEM: "list" | "listen"` and `SUFFIX: "ed"` the text "listed" is not found to be STEM SUFFIX, since "liste" has
    been read as the beginning of "listen". Put what overlaps into one terminal, or use regex. The constraint means
    what llguidance accepts; such overlaps may also lead into a dead end, where a particle dies.

    How many tokens a text still needs is not known here: under a `max_tokens` that is too short for what was begun,
    particles die at the limit.

    Raises ArgumentError for no text; ConstraintError with the line and column of a mistake, for a special token such as
    <|im_end|>, which has no text, and, when it is compiled, if no text can be derived.
    """
    if not isinstance(lark, str):
        raise ArgumentError(f"grammar({shorten(repr(lark))}): give the grammar as text")
    name = shorten(f"grammar({' '.join(lark.split())!r})")
    if halves := _HALF.search(lark):
        raise ConstraintError(f"{name}: it holds {halves[0]!r}, half of a character, which no text has")
    if special := _SPECIAL.search(_QUOTED.sub(lambda found: " " * len(found[0]), lark)):
        line = lark.count("\n", 0, special.start()) + 1
        raise ConstraintError(
            f"{name}: line {line}: {special[0]} is a special token, which has no text, and a constraint is about text; "
            "leave it out, for an accepted text may end anyway; or write it in quotes if its characters are meant"
        )
    if fault := find_fault(lark):
        raise ConstraintError(f"{name}: {shorten_report(fault)}")
    return GrammarConstraint(lark, name)


_QUOTED = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/|(?://|#)[^\n]*')
"""Strings, regular expressions and comments of a grammar."""
_HALF = re.compile("[\\ud800-\\udfff]")
_SPECIAL = re.compile(r"<[^<>\s]+>")
