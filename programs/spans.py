"""Spans: whole pieces of text that a program samples at once, token by token under a rule.

At each token a rule names the tokens that continue the span and those that leave it. Their joint probability is the
token's factor of the weight. Where the model leaves, the span ends, and the token that left is drawn again as the
context's next one, given that it leaves: so nothing is lost, and a span is a part of one text by the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.base.errors import ArgumentError
from feynkac.base.numbers import read_whole
from feynkac.programs.context import Context
from feynkac.programs.distribution import Distribution
from feynkac.programs.rules import Options, Rule, find_rule
from feynkac.programs.runtime.serving import Answer, Ask
from feynkac.programs.upcoming import InContext

if TYPE_CHECKING:
    from feynkac.programs.particle import Particle
    from feynkac.programs.runtime.record import Record


class Span(Distribution[str]):
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
        self.context = context
        self.rule = rule
        self.max_tokens = max_tokens
        self.key = ("span", rule.name)

    def run(self, p: Particle) -> str:
        """Sample the span: each token ends a step of the engine. Returns its text."""
        context, rule = self.context, self.rule
        context.check_open()
        start = len(context)
        state = rule.start
        while not rule.over(state) and (room := self._count_room(len(context) - start)) != 0:
            left, state, _ = p.sample(SpanToken(context, rule, state, room))
            if left or context.ended:
                break
        else:
            if not rule.accepts(state):
                context.die(f"'{rule.name}' is not met within max_tokens={self.max_tokens}")
        if not rule.approves(context.lm.vocabulary, context.node.tokens(start)):
            context.die(f"'{rule.name}' is not met by the whole text")
        return context.text(start)

    def _count_room(self, written: int) -> int | None:
        """How many more tokens may come; None for any number."""
        return None if self.max_tokens is None else max(self.max_tokens - written, 0)


class SpanToken(InContext[Any]):
    """One token of a span: (whether it left the span, the rule's state after it, its id)."""

    __slots__ = ("_options", "_room", "rule", "state")

    def __init__(self, context: Context, rule: Rule, state: Any, room: int | None) -> None:
        self.context = context
        self.rule = rule
        self.state = state
        self._room = room
        self.key = ("span token", context.node, context.given, rule.name)
        self._options: Options | None = None

    def ask(self, value: Any = None) -> Ask:
        continuing, leaving = self._options = self._options or self.rule.options(self.state, self._room)
        among = None if continuing is None else continuing if leaving is None else continuing | leaving
        return self.check_current().ask(among=among, draws=value is None)

    def settle(self, u: Any, pin: Record | None, answer: Answer) -> tuple[Any, float | None, Any, float]:
        context = self.context
        if answer.increment == -np.inf:
            context.die(self._explain_death())
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

    def _explain_death(self) -> str:
        """Why nothing may come next, where it is the limit that leaves nothing; else an empty text."""
        least = self.rule.count_least(self.state)
        if self._room is None or least is None or least <= self._room:
            return ""
        return f"'{self.rule.name}' takes {least} tokens at least and max_tokens leaves {self._room}"

    def follow(self, after: Any, value: Any) -> Any:
        """Move to where a replayed token leads."""
        self.context.node, self.context.ended, self.context.given = after
        left, state, token = value
        if state is None:  # of a record that was read from a file
            ended = left or self.context.ended
            return left, self.state if ended else self.rule.advance(self.state, token), token
        return value


def make_span(context: Context, given: dict[str, Any], max_tokens: int | None) -> Span:
    """The span of `Context.gen`. Raises ArgumentError for arguments that do not go together."""
    if len(given) > 1:
        raise ArgumentError(f"gen takes one of {', '.join(given)}, not several")
    max_tokens = None if max_tokens is None else read_whole("max_tokens", max_tokens, 1)
    until = given.get("until")
    if (not given or (isinstance(until, list | tuple) and not until)) and max_tokens is None:
        raise ArgumentError("gen() would go on to the end of the text; bound it: gen(max_tokens=50), gen(until='.')")
    kind, what = next(iter(given.items()), ("until", ()))
    return Span(context, find_rule(context.lm.vocabulary, kind, what), max_tokens)
