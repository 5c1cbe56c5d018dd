"""Spans: whole pieces of text that a program samples at once, token by token under a rule.

At each token a rule names the tokens that continue the span and those that leave it. Their joint probability is the
token's factor of the weight. Where the model leaves, the span ends, and the token that left is drawn again as the
context's next one, given that it leaves: so nothing is lost, and a span is a part of one text by the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from feynkac.base.errors import ArgumentError
from feynkac.base.masks import TokenAutomaton, TokenConstraint, pack
from feynkac.base.tokens import TokenSet
from feynkac.programs.context import Context
from feynkac.programs.distributions import Distribution
from feynkac.programs.runtime.serving import Answer, Ask
from feynkac.programs.upcoming import InContext

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary
    from feynkac.programs.particle import Particle
    from feynkac.programs.runtime.record import Record

_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]]*$|[。！？]+[」』”’]*$")


class Options(NamedTuple):
    """What may come next in a span; None stands for all tokens that have a text, and for no token that leaves."""

    continuing: TokenSet | None
    leaving: TokenSet | None


class Rule(Protocol):
    """What a span is made of. States are immutable."""

    name: str
    start: Any

    def options(self, state: Any) -> Options: ...
    def advance(self, state: Any, token: int) -> Any: ...
    def over(self, state: Any) -> bool:
        """Whether nothing can follow."""
        ...

    def accepts(self, state: Any) -> bool:
        """Whether the span may end here."""
        ...


class Span(Distribution):
    """A piece of text of at most `max_tokens` tokens, by one rule.

    - `regex`, `json_schema`, `choices`, or a token constraint such as `feynkac.grammar(...)`: the text matches as a
      whole. It ends where nothing can follow, or where the model leaves it: at a text that matches, by a token that
      does not go on with the match. At `max_tokens` it must match.
    - `until`: up to and with the token that completes one of these strings.
    - `unit`: a "word" with the white space before it and the punctuation on it, or a "sentence" or line.
    - none of these: `max_tokens` tokens.

    Without a constraint the end of sequence ends a span, too (`text.ended` then), and so does the limit.
    """

    __slots__ = ("context", "max_tokens", "rule")
    composite = True

    def __init__(self, context: Context, rule: Rule, max_tokens: int | None) -> None:
        self.context, self.rule, self.max_tokens = context, rule, max_tokens
        self.key = ("span", rule.name)

    def run(self, p: Particle) -> str:
        """Sample the span: each token ends a step of the engine. Returns its text."""
        context, rule = self.context, self.rule
        context.next_token()  # raises where the text has ended
        start, state = len(context), rule.start
        while not rule.over(state) and (self.max_tokens is None or len(context) - start < self.max_tokens):
            left, state, _ = p.sample(SpanToken(context, rule, state))
            if left or context.ended:
                return context.text(start)
        p.condition(rule.accepts(state))
        return context.text(start)


class SpanToken(InContext):
    """One token of a span: (whether it left the span, the rule's state after it, its id)."""

    __slots__ = ("_options", "rule", "state")

    def __init__(self, context: Context, rule: Rule, state: Any) -> None:
        self.context, self.rule, self.state = context, rule, state
        self.key = ("span token", context.node, context.given, rule.name)
        self._options: Options | None = None

    def ask(self, value: Any = None) -> Ask:
        continuing, leaving = self._options = self._options or self.rule.options(self.state)
        among = None if continuing is None else continuing if leaving is None else continuing | leaving
        return self.current().ask(among=among, draws=value is None)

    def settle(self, u: Any, pin: Record | None, answer: Answer) -> tuple[Any, float | None, Any, float]:
        context = self.context
        if answer.increment == -np.inf:
            return None, 0.0, None, -np.inf
        assert self._options is not None
        leaving = self._options.leaving
        token = answer.token if pin is None else pin.value[2]
        if leaving is not None and token in leaving:
            context.given = leaving if context.given is None else context.given & leaving
            value = (True, self.state, token)
        else:
            context.advance(token)
            value = (False, self.state if context.ended else self.rule.advance(self.state, token), token)
        return value, 0.0, (context.node, context.ended, context.given), answer.increment

    def follow(self, after: Any, value: Any) -> Any:
        """Move to where a replayed token leads."""
        self.context.node, self.context.ended, self.context.given = after
        return value


class Constrained:
    """A token constraint as a rule; states are those of its automaton."""

    def __init__(self, constraint: TokenConstraint, automaton: TokenAutomaton, vocabulary: Vocabulary) -> None:
        self.name, self.start = constraint.name, automaton.start
        self._automaton, self._size = automaton, vocabulary.size
        self._no_eos = ~pack(vocabulary.ends)
        self._known: dict[int, Options] = {}

    def options(self, state: int) -> Options:
        if state not in self._known:
            if len(self._known) > 4096:
                self._known.clear()
            row = TokenSet(self._automaton.masks(np.array([state]))[0] & self._no_eos, self._size)
            self._known[state] = Options(row, ~row if self.accepts(state) else None)
        return self._known[state]

    def advance(self, state: int, token: int) -> int:
        return int(self._automaton.advance(np.array([state]), np.array([token]))[0])

    def over(self, state: int) -> bool:
        continuing, leaving = self.options(state)
        return leaving is not None and continuing is not None and continuing.first() is None

    def accepts(self, state: int) -> bool:
        return bool(self._automaton.accepts(np.array([state]))[0])


class Until:
    """Free text up to a stop string; the state is the end of the text so far, None once a stop string is in it."""

    def __init__(self, stops: Sequence[bytes], vocabulary: Vocabulary) -> None:
        self.name, self.start = f"until {', '.join(map(repr, stops))}" if stops else "free", b""
        self._stops, self._tokens = stops, vocabulary.tokens
        self._keep = max(map(len, stops), default=1) - 1

    def options(self, state: bytes) -> Options:
        return Options(None, None)

    def advance(self, state: bytes, token: int) -> bytes | None:
        text = state + self._tokens[token]
        if any(stop in text for stop in self._stops):
            return None
        return text[len(text) - self._keep :] if self._keep else b""

    def over(self, state: bytes | None) -> bool:
        return state is None

    def accepts(self, state: bytes | None) -> bool:
        return True


class Unit:
    """A word or a sentence; the state is the text so far as bytes, None once more than the unit has been written."""

    def __init__(self, unit: str, vocabulary: Vocabulary) -> None:
        self.name, self.start = unit, b""
        self._unit, self._tokens = unit, vocabulary.tokens
        spaces = np.array([token[:1].isspace() for token in vocabulary.tokens])
        self._leaving = TokenSet.where(vocabulary, spaces | vocabulary.ends)

    def options(self, state: bytes) -> Options:
        # Everything continues or leaves, so that a unit weighs nothing.
        return Options(None, self._leaving) if self._may_end(state) else Options(None, None)

    def advance(self, state: bytes, token: int) -> bytes | None:
        from feynkac.potentials.rewards.boundaries import boundaries

        text = state + self._tokens[token]
        beyond = boundaries(text.decode("utf-8", "replace"), 0, "word" if self._unit == "word" else "sentence")
        return None if beyond else text

    def over(self, state: bytes | None) -> bool:
        return state is None

    def accepts(self, state: bytes | None) -> bool:
        return True

    def _may_end(self, state: bytes) -> bool:
        text = state.decode("utf-8", "replace")
        if self._unit == "word":
            return bool(text.strip()) and not text[-1].isspace()
        return bool(_SENTENCE_END.search(text))


_RULES: WeakKeyDictionary[Vocabulary, dict[Any, Rule]] = WeakKeyDictionary()


def span(context: Context, given: dict[str, Any], max_tokens: int | None) -> Span:
    """The span of `Context.gen`. Raises ArgumentError for arguments that do not go together."""
    if len(given) > 1:
        raise ArgumentError(f"gen takes one of {', '.join(given)}, not several")
    if max_tokens is not None and (isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1):
        raise ArgumentError(f"max_tokens is {max_tokens!r}; it must be an integer of at least 1")
    if not given and max_tokens is None:
        raise ArgumentError("gen() would go on to the end of the text; bound it: gen(max_tokens=50), gen(until='.')")
    kind, what = next(iter(given.items()), ("until", ()))
    return Span(context, _rule(context.lm.vocabulary, kind, what), max_tokens)


def _rule(vocabulary: Vocabulary, kind: str, what: Any) -> Rule:
    known = _RULES.setdefault(vocabulary, {})
    key = (kind, what if isinstance(what, str) or kind == "constraint" else json.dumps(what, default=list))
    if key not in known:
        if len(known) > 256:  # a program that makes up ever new patterns
            known.clear()
        known[key] = _made(vocabulary, kind, what)
    return known[key]


def _made(vocabulary: Vocabulary, kind: str, what: Any) -> Rule:
    if kind == "until":
        stops = [what] if isinstance(what, str) else list(what)
        if not all(isinstance(stop, str) and stop for stop in stops):
            raise ArgumentError(f"until={what!r}: give a string that is not empty, or a list of such")
        return Until([stop.encode() for stop in stops], vocabulary)
    if kind == "unit":
        if what not in ("word", "sentence"):
            raise ArgumentError(f"unit={what!r}: choose 'word' or 'sentence'")
        return Unit(what, vocabulary)
    constraint = what if kind == "constraint" else _constraint(kind, what)
    if not isinstance(constraint, TokenConstraint):
        raise ArgumentError(f"gen({constraint!r}): give a token constraint, such as feynkac.grammar(...)")
    return Constrained(constraint, constraint.automaton(vocabulary), vocabulary)


def _constraint(kind: str, what: Any) -> Any:
    from feynkac.potentials import choices, json_schema, regex

    return {"choices": choices, "json_schema": json_schema, "regex": regex}[kind](what)
