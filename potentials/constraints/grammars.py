"""Constraints that need a stack: `grammar`, by an Earley parser or by llguidance, and the base of `json_schema`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, ConstraintError, quote, shorten, shorten_report
from feynkac.base.masks import TokenAutomaton
from feynkac.base.words import is_word
from feynkac.potentials.constraints.automata.listing import list_accepted
from feynkac.potentials.constraints.engines.earley.notation import Extension
from feynkac.potentials.constraints.engines.llguidance.chains import MOST, find_rule_chain
from feynkac.potentials.constraints.schemas.walking import find_reach
from feynkac.potentials.constraints.tokenwise import TokenFactor

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary
    from feynkac.potentials.constraints.engines.earley.network import Network


class GrammarConstraint(TokenFactor):
    """What llguidance accepts; see `grammar`."""

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


class ContextFree(TokenFactor):
    """See `grammar`."""

    def __init__(self, lark: str, name: str, network: Network | None = None) -> None:
        super().__init__(name)
        self._lark = lark
        self._network = network

    def compile(self, vocabulary: Vocabulary) -> TokenAutomaton:
        from feynkac.potentials.constraints.engines.earley.table import EarleyAutomaton  # brings numba

        return EarleyAutomaton(self.prepare(), vocabulary, self.name)

    def prepare(self) -> Network:
        """The grammar as automata that call each other. Raises ConstraintError; raises Extension."""
        from feynkac.potentials.constraints.engines.earley.network import build_network
        from feynkac.potentials.constraints.engines.earley.reader import read_grammar

        if self._network is None:
            try:
                self._network = build_network(read_grammar(self._lark))
            except ConstraintError as error:
                raise ConstraintError(f"{self.name}: {shorten_report(error.args[0])}") from None  # str() would cut it
        return self._network

    def list_texts(self, most: int) -> list[str] | None:
        """All texts that meet it, None if there are more than `most`, or very long ones."""
        from feynkac.potentials.constraints.engines.earley.network import recurs

        return None if recurs(self.prepare()) else list_accepted(self, most)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_network": None}


@suggest_names()
def grammar(lark: str, *, engine: Literal["earley", "llguidance"] | None = None) -> ContextFree | GrammarConstraint:
    """The texts that derive from the rule `start` of a context-free grammar, in the notation of Lark
    (https://lark-parser.readthedocs.io/en/stable/grammar.html).

    Rules are lower case, terminals upper case. All of it means what it says: recursion may be left, right or mutual,
    rules may be empty, ambiguous or cyclic, and terminals share out the text in every possible way. Strings, ranges,
    regular expressions (Python's, without anchors and look-around), `? * + ~2..5 {2,5} [ ]`, templates, `%ignore` and
    `%import common.NAME` are read; of terminals also `A & B` (both) and `~A` (all other texts), so that
    `NAME: /[a-z]+/ & ~KEYWORD` is a name that is no keyword. No white space is skipped unless `%ignore` says so: it may
    then stand between, before and behind all terminals, and need not ("notx" is `"not" NAME`). What Lark says about
    trees (aliases, `?rule`, priorities) is read and means nothing here.

    engine: by default our Earley parser, whose masks are exact; llguidance where the grammar uses what only that has:
    `%json {...}`, `%lark`, `%regex`, `%llguidance`, `@name`, parameters and attributes of rules, `\\p{...}`. "earley"
    refuses these. "llguidance" always takes llguidance, in its dialect
    (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md), which reads *terminals greedily*, left to
    right, before rules come into play: with `STEM: "list" | "listen"` and `SUFFIX: "ed"` the text "listed" is not
    found to be STEM SUFFIX, since "liste" has been read as the beginning of "listen". Then the constraint means what
    llguidance accepts, such overlaps may lead into a dead end, where a particle dies, and how many tokens a text
    still needs is not known, so that particles may die at `max_tokens`, too; and it ignores nothing at the ends of
    the text. Earley knows the fewest bytes that a text still needs, and begins none for which `max_tokens` of the
    longest token are too few.

    Raises ArgumentError for no text and no engine; ConstraintError with the line and column of a mistake, for a special
    token such as <|im_end|>, which has no text, if no text derives, and, when it is compiled, if tokens can spell none.
    """
    if not isinstance(lark, str):
        raise ArgumentError(f"grammar({quote(lark)}): give the grammar as text")
    if engine is not None and not is_word(engine, ("earley", "llguidance")):
        raise ArgumentError(f'grammar(engine={quote(engine)}): the engines are "earley" and "llguidance"')
    name = shorten(f"grammar({quote(' '.join(lark.split()))})")
    bare = _QUOTED.sub(lambda found: " " * len(found[0]), lark)
    _check_notation(lark, bare, name)
    if engine != "llguidance":
        try:
            free = ContextFree(lark, name)
            free.prepare()
            return free.define(lark)
        except Extension as extension:
            if engine == "earley":
                raise ConstraintError(f"{name}: {extension} is llguidance's own; ask for engine='llguidance'") from None
    if find_rule_chain(bare) > MOST or any(find_reach(schema) > MOST for schema in _list_schemas(lark)):
        raise ConstraintError(
            f"{name}: its rules, or the references of a schema in it, lead more than {MOST} deep into each other, "
            "which llguidance cannot follow; write what stands between as one"
        )
    if fault := find_fault(lark):
        raise ConstraintError(f"{name}: {shorten_report(fault)}")
    return GrammarConstraint(lark, name).define(lark)


def _check_notation(lark: str, bare: str, name: str) -> None:
    """Raises ConstraintError for what is no grammar in Lark's notation; `bare`: without what stands in quotes."""
    if halves := _HALF.search(lark):
        raise ConstraintError(f"{name}: it holds {quote(halves[0])}, half of a character, which no text has")
    if other := _OTHER_NOTATION.search(bare):
        line = lark.count("\n", 0, other.start(1)) + 1
        raise ConstraintError(
            f"{name}: line {line}: {other[1]} is how BNF and GBNF write a rule; in Lark's notation it is name: ..., "
            "names are lower case, and the first rule is start"
        )
    if special := _SPECIAL.search(bare):
        line = lark.count("\n", 0, special.start()) + 1
        raise ConstraintError(
            f"{name}: line {line}: {special[0]} is a special token, which has no text, and a constraint is about text; "
            "leave it out, for an accepted text may end anyway; or write it in quotes if its characters are meant"
        )


def _list_schemas(lark: str) -> Iterator[Any]:
    """The JSON schemas that stand in a grammar, as far as they can be read."""
    for found in re.finditer(r"%json\s*", lark):
        with suppress(ValueError, RecursionError):
            yield json.JSONDecoder().raw_decode(lark, found.end())[0]


_QUOTED = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/|(?://|#)[^\n]*')
"""Strings, regular expressions and comments of a grammar."""
_OTHER_NOTATION = re.compile(r"^[ \t]*((?:<[^<>\n]+>|[\w-]+)[ \t]*::=)", re.MULTILINE)
_HALF = re.compile("[\\ud800-\\udfff]")
_SPECIAL = re.compile(r"<[^<>\s]+>")
