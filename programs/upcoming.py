"""What comes next in a context, as distributions: a token, whether it is in a set, a whole text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.base.errors import ArgumentError, ProgramError, quote
from feynkac.base.numbers import read_whole, take_only
from feynkac.base.tokens import Token, TokenSet
from feynkac.programs.distribution import Distribution, T
from feynkac.programs.runtime.serving import Answer, Ask, Block

if TYPE_CHECKING:
    from feynkac.models.language.nodes import Node
    from feynkac.programs.context import Context
    from feynkac.programs.particle import Particle
    from feynkac.programs.runtime.record import Record


class InContext(Distribution[T]):
    """A distribution that needs the logits of a context. It must be used before the context moves on."""

    __slots__ = ("context",)
    context: Context
    in_context = True

    def ask(self, value: Any = None) -> Ask | Block:
        """What to ask the model: the probability of `value`, or a draw."""
        raise NotImplementedError

    def score(self, value: Any, answer: Any) -> float:
        """The log-probability of `value` in nats, by the answer of the model."""
        raise NotImplementedError

    def move(self, value: Any) -> Any:
        """Move the context on by a value that was observed; returns where it leads."""
        raise NotImplementedError

    def log_prob(self, value: Any) -> float:
        return self.context.query(self, value)

    def find_missed(self, proposal: Distribution) -> tuple[Any] | None:
        """A value that this may take and `proposal` cannot, where that can be told."""
        return None

    def check_here(self) -> None:
        """Raises ProgramError outside of the particle that has opened the context."""
        self.context.check_here()

    def check_current(self) -> Context:
        """The context. Raises ProgramError if it has moved on since."""
        if self.key[1] is not self.context.node or self.context.ended:
            raise ProgramError(
                f"{quote(self)}: the context has moved on; call next_token() or mask() anew for each token"
            )
        return self.context


class NextToken(InContext[Token]):
    """The next token of a context."""

    __slots__ = ()

    def __init__(self, context: Context) -> None:
        self.context = context
        self.key = ("next_token", context.node, context.given)

    def ask(self, value: Any = None) -> Ask:
        """What to ask: the probability of `value`, or a draw."""
        return self.check_current().ask(token=None if value is None else value.id, draws=value is None)

    def settle(self, u: Any, pin: Record | None, answer: Answer) -> tuple[Token, float, Any, float]:
        token = Token.of(self.context.lm.vocabulary, answer.token)
        self.context.log_drawn = answer.log_prob
        return token, answer.log_prob, (*self.context.advance(answer.token), answer.log_prob), answer.increment

    def score(self, value: Token, answer: Answer) -> float:
        return answer.log_prob

    def move(self, value: Token) -> Any:
        """Append a token that was observed; returns the new position."""
        return self.context.advance(value.id)

    def follow(self, after: tuple[Any, ...], value: Any) -> Any:
        """Move to where a replayed token leads."""
        context = self.context
        context.node, context.ended, *drawn = after  # the log-probability comes where it was drawn, not observed
        context.given = None
        if drawn:
            context.log_drawn = drawn[0]
        # Of a record that was read from a file it is the id alone.
        return Token.of(context.lm.vocabulary, value) if type(value) is int else value

    def convert(self, value: Any) -> Token:
        """A token of this model from a Token, an id, or a text that is one token."""
        vocabulary = self.context.lm.vocabulary
        if isinstance(value, Token):
            if value.vocabulary is vocabulary:
                return value
            same = value.id < vocabulary.size and vocabulary.tokens[value.id] == value.bytes
            if same and value.is_eos == (value.id in vocabulary.eos):
                return Token.of(vocabulary, value.id)
            raise ArgumentError(f"token {quote(value)} is of another model's vocabulary; use observe_text or append")
        if isinstance(value, str):
            ids = self.context.encode(value)
            if len(ids) != 1:
                raise ArgumentError(f"{quote(value)} is {len(ids)} tokens; use text.observe_text({quote(value)})")
            return Token.of(vocabulary, ids[0])
        if isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= value < vocabulary.size:
            return Token.of(vocabulary, int(value))
        raise ArgumentError(f"{quote(value)} is no token; give a Token, an id, or a text that is one token")

    def find_missed(self, proposal: Distribution) -> tuple[Any] | None:
        vocabulary = self.context.lm.vocabulary
        if isinstance(proposal, NextToken):
            check_covers(self.context, proposal.context)
            if proposal.context.given is None:
                return None
            given = proposal.context.given
            left = ~given if self.context.given is None else self.context.given & ~given
        else:
            offered = proposal.support()
            if not isinstance(offered, Sequence):
                return None
            left = ~TokenSet.where(vocabulary, [self.convert(value).id for value in offered])
            left = left if self.context.given is None else left & self.context.given
        return (Token.of(vocabulary, i),) if (i := left.first()) is not None else None

    def __repr__(self) -> str:
        return f"next_token of {self.context!r}"


class GivenTokens(InContext[Any]):
    """The next tokens of a context, which are given: all are scored by one forward pass.

    Where they `end`, as drawn ones do, an end of sequence ends the context; else it is a token like others. A context
    that `stays` only asks for their probability.
    """

    __slots__ = ("_ends", "_stays", "ids")

    def __init__(self, context: Context, ids: Sequence[int], *, end: bool = False, stays: bool = False) -> None:
        self.context = context
        self.ids = tuple(ids)
        self._ends = context.lm.vocabulary.eos if end else ()
        self._stays = stays
        self.key = ("tokens", context.node, context.given, self.ids)

    def ask(self, value: Any = None) -> Block:
        """What to ask: the probability of each token."""
        context = self.check_current()
        block = Block(context.histories, context.node, context.law, context.given, self.ids)
        if not self._stays:
            context.heading = block.find_end(self._ends)
        return block

    def score(self, value: Any, answer: Sequence[Answer]) -> float:
        return sum(each.log_prob for each in answer)

    def move(self, value: Any) -> Any:
        """Append the tokens; returns the new position."""
        self.context.heading = None
        for token in self.ids:
            (self.context.advance if token in self._ends else self.context.put)(token)
        return self.context.node, self.context.ended

    def follow(self, after: tuple[Node, bool], value: Any) -> Any:
        """Move to where replayed tokens lead."""
        self.context.node, self.context.ended = after
        self.context.given = None
        return value

    def __repr__(self) -> str:
        return f"next tokens of {self.context!r}"


def check_covers(target: Context, proposal: Context) -> None:
    """Raises ArgumentError where the law of `proposal` leaves out tokens that `target` may go on with."""
    same = proposal.node is target.node and proposal.law.key == target.law.key
    if proposal.law.leaves_out and not same:
        raise ArgumentError(
            f"the law of {quote(proposal)}, from which tokens are proposed, leaves out some that {quote(target)} may "
            "go on with, and no weight makes up for these; open it without top_k, top_p, min_p and no_repeat_ngram_size"
        )


class Draft(Distribution[str]):
    """The next tokens of a context, drawn from another one and weighed all at once (see `Context.draft`)."""

    __slots__ = ("ahead", "context", "tokens")
    composite = True

    def __init__(self, context: Context, ahead: Context, tokens: int) -> None:
        if ahead is context:
            raise ArgumentError(f"draft({quote(ahead)}): give another context than the one that the tokens are for")
        self.context = context.check_open()
        self.ahead = ahead.check_open()
        check_covers(context, ahead)
        self.tokens = read_whole("draft: tokens", tokens, 1)
        self.key = ("draft", self.tokens)

    def run(self, p: Particle) -> str:
        """Draw the tokens, each a step of the engine, and weigh them. Returns their text."""
        target = NextToken(self.context)
        log_q = 0.0
        drawn = list[int]()
        while not self.ahead.ended and len(drawn) < self.tokens:
            drawn.append(target.convert(p.sample(NextToken(self.ahead))).id)
            log_q += self.ahead.log_drawn
        start = len(self.context)
        p.observe(GivenTokens(self.context, drawn, end=True), None)
        p.factor(-log_q)
        return self.context.text(start)


class InSet(InContext[bool]):
    """Whether the next token of a context is in a set."""

    __slots__ = ("tokens",)

    def __init__(self, context: Context, tokens: TokenSet) -> None:
        self.context = context
        self.tokens = tokens
        self.key = ("mask", context.node, context.given, tokens)

    def ask(self, value: Any = None) -> Ask:
        return self.check_current().ask(among=self.tokens)

    def settle(self, u: Any, pin: Record | None, answer: Answer) -> tuple[bool, float, Any, float]:
        value = bool(u < math.exp(answer.increment)) if pin is None else pin.value
        return value, self.score(value, answer), self.move(value), 0.0

    def score(self, value: bool, answer: Answer) -> float:
        # Both sides are sums of their own: one minus the other would lose what is small beside 1.
        return answer.increment if value else answer.outside

    def move(self, value: bool) -> Any:
        """Remember the answer."""
        allowed = self.tokens if value else ~self.tokens
        self.context.given = allowed if self.context.given is None else self.context.given & allowed
        return self.context.given

    def follow(self, after: TokenSet, value: Any) -> Any:
        """Remember a replayed answer."""
        self.context.given = after
        return value

    def convert(self, value: Any) -> bool:
        if not isinstance(truth := take_only(value), bool):
            raise ArgumentError(f"{quote(value)}: whether the next token is in a set is True or False")
        return truth

    def __repr__(self) -> str:
        return f"mask of {self.context!r}"
