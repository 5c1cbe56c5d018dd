"""What spans are made of: a rule says which tokens go on, which leave, and where the span is over."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, get_origin
from weakref import WeakKeyDictionary

import numpy as np

from feynkac.base.capabilities import Checks, ChecksTokens, MasksWithin, has
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list
from feynkac.base.masks import TokenAutomaton, TokenConstraint, count_least, mask_within, pack
from feynkac.base.tokens import TokenSet
from feynkac.base.unicode import check_unicode
from feynkac.base.words import is_word

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary

_MANY = 1 << 16
"""From so many tokens on it is not told how many a constraint takes."""
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]]*$|(?P<ideographic>[。！？]+[」』”’]*)$")
_IDEOGRAPHIC = tuple(mark.encode() for mark in "。！？」』”’")
"""What an ideographic full stop may still have behind it."""


class Options(NamedTuple):
    """What may come next in a span; None stands for all tokens that have a text, and for no token that leaves."""

    continuing: TokenSet | None
    leaving: TokenSet | None


class Rule(Protocol):
    """What a span is made of. States are immutable."""

    name: str
    start: Any

    def options(self, state: Any, left: int | None) -> Options:
        """What may come next; `left` tokens in all may continue the span, any number if None."""
        ...

    def advance(self, state: Any, token: int) -> Any: ...
    def over(self, state: Any) -> bool:
        """Whether nothing can follow."""
        ...

    def accepts(self, state: Any) -> bool:
        """Whether the span may end here."""
        ...

    def count_least(self, state: Any) -> int | None:
        """The fewest tokens to an end from here, as far as that can be told; None where it cannot."""
        ...

    def approves(self, vocabulary: Vocabulary, tokens: Sequence[int]) -> bool:
        """Whether a span that has ended is right, by what cannot be told token by token."""
        ...


class Constrained:
    """A token constraint as a rule; states are those of its automaton."""

    def __init__(self, constraint: TokenConstraint, automaton: TokenAutomaton, vocabulary: Vocabulary) -> None:
        self.name = constraint.name
        self.start = automaton.start
        self._automaton = automaton
        self._size = vocabulary.size
        self._no_eos = ~pack(vocabulary.ends)
        self._known: dict[tuple[int, int | None], Options] = {}
        self._constraint = constraint
        self._bounded = has(automaton, MasksWithin)

    def options(self, state: int, left: int | None) -> Options:
        key = (state, left if self._bounded else None)
        found = self._known.get(key)
        if found is None:
            if len(self._known) > 4096:
                self._known.clear()
            whole = TokenSet(self._automaton.masks(np.array([state]))[0] & self._no_eos, self._size)
            # What leaves a span is what does not go on with the match, be the limit near or far.
            leaving = ~whole if self.accepts(state) else None
            found = self._known[key] = Options(whole if left is None else self._bound(state, left), leaving)
        return found

    def _bound(self, state: int, left: int) -> TokenSet:
        mask = mask_within(self._automaton, np.array([state]), np.array([left]))[0]
        return TokenSet(mask & self._no_eos, self._size)

    def advance(self, state: int, token: int) -> int:
        return int(self._automaton.advance(np.array([state]), np.array([token]))[0])

    def over(self, state: int) -> bool:
        continuing, leaving = self.options(state, None)
        return leaving is not None and continuing is not None and continuing.first() is None

    def accepts(self, state: int) -> bool:
        return bool(self._automaton.accepts(np.array([state]))[0])

    def count_least(self, state: int) -> int | None:
        least = count_least(self._automaton, state, _MANY)
        return least if least < _MANY else None

    def approves(self, vocabulary: Vocabulary, tokens: Sequence[int]) -> bool:
        return not has(self._constraint, Checks) or self._constraint.approves(vocabulary, tokens)


class _Open:
    """What may end anywhere; the state is None once it is over."""

    def over(self, state: bytes | None) -> bool:
        return state is None

    def accepts(self, state: bytes | None) -> bool:
        return True

    def count_least(self, state: bytes | None) -> int | None:
        return None

    def approves(self, vocabulary: Vocabulary, tokens: Sequence[int]) -> bool:
        return True


class Until(_Open):
    """Free text up to a stop string; the state is the end of the text so far, None once a stop string is in it."""

    def __init__(self, stops: Sequence[bytes], vocabulary: Vocabulary) -> None:
        self.name = f"until {', '.join(map(repr, stops))}" if stops else "free"
        self.start = b""
        self._stops = stops
        self._tokens = vocabulary.tokens
        self._keep = max(map(len, stops), default=1) - 1

    def options(self, state: bytes, left: int | None) -> Options:
        return Options(None, None)

    def advance(self, state: bytes, token: int) -> bytes | None:
        text = state + self._tokens[token]
        if any(stop in text for stop in self._stops):
            return None
        return text[len(text) - self._keep :] if self._keep else b""


class Unit(_Open):
    """A word or a sentence; the state is the text so far as bytes, None once more than the unit has been written."""

    def __init__(self, unit: str, vocabulary: Vocabulary) -> None:
        self.name = unit
        self.start = b""
        self._unit = unit
        self._tokens = vocabulary.tokens
        spaces = np.array([token.decode("utf-8", "ignore")[:1].isspace() for token in vocabulary.tokens])
        others = np.array([not _begins_mark(token) for token in vocabulary.tokens]) & vocabulary.with_text
        self._leaving = TokenSet.where(vocabulary, spaces | vocabulary.ends)
        self._leaving_ideographic = TokenSet.where(vocabulary, others | vocabulary.ends)

    def options(self, state: bytes, left: int | None) -> Options:
        # Everything continues or leaves, so that a unit weighs nothing.
        return Options(None, self._find_leaving(state.decode("utf-8", "replace")))

    def advance(self, state: bytes, token: int) -> bytes | None:
        from feynkac.potentials.rewards.boundaries import boundaries

        text = state + self._tokens[token]
        beyond = boundaries(text.decode("utf-8", "replace"), 0, "word" if self._unit == "word" else "sentence")
        return None if beyond else text

    def _find_leaving(self, text: str) -> TokenSet | None:
        if self._unit == "word":
            return self._leaving if text.strip() and not text[-1].isspace() else None
        end = _SENTENCE_END.search(text)
        return None if end is None else self._leaving_ideographic if end["ideographic"] else self._leaving


def _begins_mark(token: bytes) -> bool:
    """Whether a token, or a part of a character, is or begins what may follow an ideographic full stop."""
    return any(token.startswith(mark) or mark.startswith(token) for mark in _IDEOGRAPHIC)


_RULES: WeakKeyDictionary[Vocabulary, dict[Any, Rule]] = WeakKeyDictionary()


def find_rule(vocabulary: Vocabulary, kind: str, what: Any) -> Rule:
    """The rule of `kind` (an argument of `Context.gen`) and `what` is given for it; made once a vocabulary.

    Raises ArgumentError for what is none.
    """
    known = _RULES.setdefault(vocabulary, {})
    named = kind == "constraint" or isinstance(what, (str, type)) or get_origin(what) is not None
    key = (kind, what if named else json.dumps(what, default=list))
    found = known.get(key)
    if found is None:
        if len(known) > 256:  # a program that makes up ever new patterns
            known.clear()
        found = known[key] = _make_rule(vocabulary, kind, what)
    return found


def _make_rule(vocabulary: Vocabulary, kind: str, what: Any) -> Rule:
    if kind == "until":
        stops = [what] if isinstance(what, str) else as_list(what)
        if stops is None or not all(isinstance(stop, str) and stop for stop in stops):
            raise ArgumentError(f"until={quote(what)}: give a string that is not empty, or a list of such")
        for stop in stops:
            check_unicode(stop, "until")
        return Until([stop.encode() for stop in stops], vocabulary)
    if kind == "unit":
        if not is_word(what, ("word", "sentence")):
            raise ArgumentError(f"unit={quote(what)}: choose 'word' or 'sentence'")
        return Unit(what, vocabulary)
    constraint = what if kind == "constraint" else _make_constraint(kind, what)
    if not isinstance(constraint, TokenConstraint):
        raise ArgumentError(f"gen({quote(constraint)}): give a token constraint, such as feynkac.grammar(...)")
    automaton = constraint.automaton(vocabulary)
    if has(automaton, ChecksTokens):
        raise ArgumentError(
            f"gen(constraint={constraint.name}): a span is drawn under masks, and a lazy constraint has none. Steer a "
            "prompt by it, or ask its function about what was drawn: p.condition(f(str(text)))"
        )
    return Constrained(constraint, automaton, vocabulary)


def _make_constraint(kind: str, what: Any) -> Any:
    from feynkac.potentials import choices, json_schema, regex

    return {"choices": choices, "json_schema": json_schema, "regex": regex}[kind](what)
