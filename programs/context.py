"""Contexts: a prompt and the tokens that a particle has put behind it, and the distributions of what comes next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.errors import ArgumentError, ProgramError
from feynkac.programs.distributions import Distribution
from feynkac.programs.particle import Particle, current
from feynkac.programs.serving import Answer, Ask
from feynkac.programs.tokens import Token, Tokens, TokenSet

if TYPE_CHECKING:
    from feynkac.models.context import Histories, Node
    from feynkac.models.lm import CausalLM
    from feynkac.potentials.tokenwise import TokenFactor
    from feynkac.programs.record import Record
    from feynkac.programs.spans import Span


class Context:
    """A text that grows behind a prompt (see `CausalLM.context`). It belongs to the particle that opened it.

    `str(text)` is all behind the prompt, `len(text)` counts its tokens, `text.ended` tells whether an end of sequence
    came, which is neither in the text nor counted.
    """

    __slots__ = ("__weakref__", "_particle", "ended", "given", "histories", "inverse_temperature", "lm", "node")

    def __init__(self, particle: Particle, lm: CausalLM, histories: Histories, node: Node, temperature: float) -> None:
        self._particle, self.lm, self.histories, self.node = particle, lm, histories, node
        self.inverse_temperature = 1.0 / temperature
        self.given: TokenSet | None = None
        """What is known of the next token: it is in this set."""
        self.ended = False
        particle.add_context(self)

    def next_token(self) -> NextToken:
        """The distribution of the next token. Sampling it or observing it appends the token."""
        if self.ended:
            raise ProgramError(f"this text has ended, after {_tail_of(str(self))!r}; ask text.ended before going on")
        return NextToken(self)

    def mask(self, tokens: Tokens) -> InSet:
        """Whether the next token is in a set (ids, texts, or a function of a token's text): True or False.

        Once it is sampled or observed, the next token is drawn given the answer. So
        `p.observe(text.mask(short_tokens), True)` makes the next token short, and weighs by the probability of that.
        """
        if self.ended:
            raise ProgramError(f"this text has ended, after {_tail_of(str(self))!r}; ask text.ended before going on")
        return InSet(self, TokenSet.where(self.lm.vocabulary, tokens))

    def gen(
        self,
        constraint: TokenFactor | None = None,
        *,
        regex: str | None = None,
        json_schema: Any = None,
        choices: Iterable[str] | None = None,
        until: str | Sequence[str] | None = None,
        unit: str | None = None,
        max_tokens: int | None = None,
    ) -> Span:
        """A whole span of text, to be sampled: `p.sample(text.gen(regex="[0-9]+"))` returns its text (see `Span`)."""
        from feynkac.programs.spans import span

        given = {"constraint": constraint, "regex": regex, "json_schema": json_schema, "choices": choices,
                 "until": until, "unit": unit}  # fmt: skip
        return span(self, {name: value for name, value in given.items() if value is not None}, max_tokens)

    def observe_text(self, text: str) -> None:
        """Observe each token of `text`, spelt as the tokenizer spells it: the weight is its probability."""
        for token in self._encoded(text):
            self._particle.observe(self.next_token(), token)

    def append(self, text: str | Token | Sequence[int]) -> None:
        """Put text or tokens behind the context, without any weight. A pending `mask` is forgotten."""
        if self.ended:
            raise ProgramError(f"this text has ended, after {_tail_of(str(self))!r}; nothing can follow")
        if isinstance(text, Token):
            ids: Sequence[int] = [NextToken(self).converted(text).id]
        else:
            ids = self._encoded(text) if isinstance(text, str) else [int(i) for i in text]
        for token in ids:
            self.advance(int(token))

    def fork(self) -> Context:
        """A second context that stands where this one does; both go on by themselves. It costs nothing."""
        twin = Context(self._particle, self.lm, self.histories, self.node, 1.0 / self.inverse_temperature)
        twin.given, twin.ended = self.given, self.ended
        return twin

    @property
    def tokens(self) -> list[Token]:
        """All tokens behind the prompt, without the end of sequence."""
        return [Token.of(self.lm.vocabulary, i) for i in self.node.tokens()]

    @property
    def bytes(self) -> bytes:
        """What the tokens stand for."""
        return self.lm.vocabulary.bytes(self.node.tokens())

    @property
    def eos(self) -> Token:
        """The end of sequence, to be observed or compared; the first one, where there are several."""
        if not self.lm.vocabulary.eos:
            raise ArgumentError("this model has no end-of-sequence token")
        return Token.of(self.lm.vocabulary, self.lm.vocabulary.eos[0])

    def text(self, start: int = 0) -> str:
        """The text behind the first `start` tokens."""
        return self.lm.vocabulary.text(self.node.tokens(start))

    def advance(self, token: int) -> tuple[Node, bool]:
        """Append a token, without any weight; returns the new position."""
        self.given = None
        if token in self.lm.vocabulary.eos:
            self.ended = True
        else:
            self.node = self.histories.child(self.node, token)
            self._particle.run.spend(self._particle, self.node.depth)
        return self.node, self.ended

    def ask(self, *, among: TokenSet | None = None, token: int | None = None, draws: bool = False) -> Ask:
        """A question about the next token, for the engine to answer."""
        return Ask(self.histories, self.node, self.inverse_temperature, self.given, among, token, draws)

    def query(self, dist: Distribution, value: Any) -> float:
        """The log-probability of a value, without any effect."""
        return self._particle.query(dist, value)

    def _encoded(self, text: str) -> list[int]:
        return self.lm.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def __str__(self) -> str:
        return self.text()

    def __len__(self) -> int:
        return self.node.depth

    def __bool__(self) -> bool:  # a context of length 0 is one all the same
        return True

    def __copy__(self) -> Context:
        return self.fork()

    def __deepcopy__(self, memo: Any) -> Context:
        return self.fork()

    def __repr__(self) -> str:
        return f"<context {_tail_of(str(self))!r}{' (ended)' if self.ended else ''}>"


class InContext(Distribution):
    """A distribution that needs the logits of a context. It must be used before the context moves on."""

    __slots__ = ("context",)
    context: Context
    in_context = True

    def log_prob(self, value: Any) -> float:
        return self.context.query(self, value)

    def missed(self, proposal: Distribution) -> tuple[Any] | None:
        """A value that this may take and `proposal` cannot, where that can be told."""
        return None

    def converted(self, value: Any) -> Any:
        return value

    def current(self) -> Context:
        """The context, which must not have moved since."""
        if self.key[1] is not self.context.node or self.context.ended:
            raise ProgramError(f"{self!r}: the context has moved on; call next_token() or mask() anew for each token")
        return self.context


class NextToken(InContext):
    """The next token of a context."""

    __slots__ = ()

    def __init__(self, context: Context) -> None:
        self.context = context
        self.key = ("next_token", context.node, context.given)

    def ask(self, value: Any = None) -> Ask:
        """What to ask: the probability of `value`, or a draw."""
        return self.current().ask(token=None if value is None else value.id, draws=value is None)

    def settle(self, u: Any, pin: Record | None, answer: Answer) -> tuple[Token, float, Any, float]:
        token = Token.of(self.context.lm.vocabulary, answer.token)
        return token, answer.log_prob, self.context.advance(answer.token), answer.increment

    def scored(self, value: Token, answer: Answer) -> float:
        return answer.log_prob

    def move(self, value: Token) -> Any:
        """Append a token that was observed; returns the new position."""
        return self.context.advance(value.id)

    def follow(self, after: tuple[Node, bool], value: Any) -> Any:
        """Move to where a replayed token leads."""
        context = self.context
        context.node, context.ended = after
        context.given = None
        return value

    def converted(self, value: Any) -> Token:
        """A token of this model from a Token, an id, or a text that is one token."""
        vocabulary = self.context.lm.vocabulary
        if isinstance(value, Token):
            if value.vocabulary is vocabulary:
                return value
            same = value.id < vocabulary.size and vocabulary.tokens[value.id] == value.bytes
            if same and value.is_eos == (value.id in vocabulary.eos):
                return Token.of(vocabulary, value.id)
            raise ArgumentError(f"token {value!r} is of another model's vocabulary; use observe_text or append")
        if isinstance(value, str):
            ids = self.context._encoded(value)
            if len(ids) != 1:
                raise ArgumentError(f"{value!r} is {len(ids)} tokens; use text.observe_text({value!r})")
            return Token.of(vocabulary, ids[0])
        if isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= value < vocabulary.size:
            return Token.of(vocabulary, int(value))
        raise ArgumentError(f"{value!r} is no token; give a Token, an id, or a text that is one token")

    def missed(self, proposal: Distribution) -> tuple[Any] | None:
        vocabulary = self.context.lm.vocabulary
        if isinstance(proposal, NextToken):
            if proposal.context.given is None:
                return None
            given = proposal.context.given
            left = ~given if self.context.given is None else self.context.given & ~given
        else:
            offered = proposal.support()
            if not isinstance(offered, Sequence):
                return None
            left = ~TokenSet.where(vocabulary, [self.converted(value).id for value in offered])
            left = left if self.context.given is None else left & self.context.given
        return (Token.of(vocabulary, i),) if (i := left.first()) is not None else None

    def __repr__(self) -> str:
        return f"next_token of {self.context!r}"


class InSet(InContext):
    """Whether the next token of a context is in a set."""

    __slots__ = ("tokens",)

    def __init__(self, context: Context, tokens: TokenSet) -> None:
        self.context, self.tokens = context, tokens
        self.key = ("mask", context.node, context.given, tokens)

    def ask(self, value: Any = None) -> Ask:
        return self.current().ask(among=self.tokens)

    def settle(self, u: Any, pin: Record | None, answer: Answer) -> tuple[bool, float, Any, float]:
        value = bool(u < math.exp(answer.increment)) if pin is None else pin.value
        return value, self.scored(value, answer), self.move(value), 0.0

    def scored(self, value: bool, answer: Answer) -> float:
        if value:
            return answer.increment
        left = -math.expm1(min(answer.increment, 0.0))
        return math.log(left) if left > 0.0 else -math.inf

    def move(self, value: bool) -> Any:
        """Remember the answer."""
        allowed = self.tokens if value else ~self.tokens
        self.context.given = allowed if self.context.given is None else self.context.given & allowed
        return self.context.given

    def follow(self, after: TokenSet, value: Any) -> Any:
        """Remember a replayed answer."""
        self.context.given = after
        return value

    def converted(self, value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise ArgumentError(f"{value!r}: whether the next token is in a set is True or False")
        return bool(value)

    def __repr__(self) -> str:
        return f"mask of {self.context!r}"


def open_context(
    lm: CausalLM, prompt: tuple[Any, ...], read: Callable[..., tuple[int, ...]], temperature: float
) -> Context:
    """A context of the running particle behind the token ids `read(*prompt)` (see `CausalLM.context`)."""
    if not temperature > 0.0 or temperature == math.inf:
        raise ArgumentError(f"temperature is {temperature}; it must be positive (a small one is nearly greedy)")
    particle = current()
    histories, root = particle.run.root(lm, prompt, read)
    return Context(particle, lm, histories, root, temperature)


def _tail_of(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"...{text[-length:]}"
