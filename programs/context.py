"""Contexts: a prompt and the tokens that a particle has put behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, ProgramError, quote
from feynkac.base.numbers import read_flag
from feynkac.base.tokens import Token, Tokens, TokenSet
from feynkac.models.language.prompts.openings import list_tokens, read_ids
from feynkac.programs.runtime.execution import Execution
from feynkac.programs.runtime.record import CONDITION
from feynkac.programs.runtime.serving import Ask
from feynkac.programs.upcoming import Draft, GivenTokens, InSet, NextToken

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary
    from feynkac.models.language.histories import Histories
    from feynkac.models.language.laws import Law
    from feynkac.models.language.lm import CausalLM
    from feynkac.models.language.nodes import Node
    from feynkac.potentials.constraints.tokenwise import TokenFactor
    from feynkac.programs.runtime.protocols import ContextDistribution
    from feynkac.programs.spans import Span


class TokenPlace(NamedTuple):
    """Where a context stood at some moment."""

    vocabulary: Vocabulary
    node: Node

    def read(self) -> str:
        """The text behind its prompt."""
        return self.vocabulary.text(self.node.tokens())


class Context:
    """A text that grows behind a prompt (see `CausalLM.context`). It belongs to the particle that opened it.

    `str(text)` is all behind the prompt, `len(text)` counts its tokens, `text.ended` tells whether an end of sequence
    was drawn or observed, which is neither in the text nor counted. In text that is appended or observed as a text it
    ends nothing, and counts as a token like others: so several turns of a conversation stand in one context.
    """

    __slots__ = (
        "__weakref__", "_execution", "ended", "given", "heading", "histories", "law", "lm", "log_drawn",
        "node",
    )  # fmt: skip

    def __init__(self, execution: Execution, lm: CausalLM, histories: Histories, node: Node, law: Law) -> None:
        self._execution = execution
        self.lm = lm
        self.histories = histories
        self.node = node
        self.law = law
        self.given: TokenSet | None = None
        """What is known of the next token: it is in this set."""
        self.log_drawn = 0.0
        """The log-probability of the token that `next_token` drew last, in nats, given what masks had told of it."""
        self.heading: Node | None = None
        """Where it will stand once the text that is being scored is behind it."""
        self.ended = False
        execution.add_context(self)

    def next_token(self) -> NextToken:
        """The distribution of the next token. Sampling it or observing it appends the token."""
        return NextToken(self.check_open())

    def mask(self, tokens: Tokens, *, or_end: bool = False) -> InSet:
        """Whether the next token is in a set (ids, texts, or a function of a token's text): True or False.

        `or_end`: the ends of sequence are in the set, too.
        Once it is sampled or observed, the next token is drawn given the answer. So
        `p.observe(text.mask(short_tokens), True)` makes the next token short, and weighs by the probability of that.
        """
        allowed = TokenSet.where(self.check_open().lm.vocabulary, tokens)
        if read_flag("mask: or_end", or_end):
            allowed |= TokenSet.where(self.lm.vocabulary, self.lm.vocabulary.ends)
        return InSet(self, allowed)

    @suggest_names()
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
        from feynkac.programs.spans import make_span

        given = {"constraint": constraint, "regex": regex, "json_schema": json_schema, "choices": choices,
                 "until": until, "unit": unit}  # fmt: skip
        return make_span(self, {name: value for name, value in given.items() if value is not None}, max_tokens)

    def observe_text(self, text: str) -> None:
        """Observe `text`, spelt as the tokenizer spells it: the weight is its probability, from one forward pass.

        The context goes on by the bytes of `text` and nothing else. Raises ModelError where no tokens have them.
        """
        if ids := self.check_open().encode(text):
            self._execution.observe(GivenTokens(self, ids), None)

    def log_prob(self, text: str | Sequence[int]) -> float:
        """The log-probability that the context goes on with `text` (or with these tokens), in nats, without any effect.

        One forward pass, shared with what other particles ask. A text is spelt as the tokenizer spells it. Raises
        ModelError where no tokens have its bytes.
        """
        self.check_open()
        ids = self.encode(text) if isinstance(text, str) else self._read_ids(text)
        return self.query(GivenTokens(self, ids, stays=True), None) if ids else 0.0

    def draft(self, ahead: Context, tokens: int = 4) -> Draft:
        """The next `tokens` tokens, to be sampled: drawn one by one from `ahead`, verified by one forward pass.

        Both contexts move on. The weight is the probability of the tokens here over that in `ahead`, so that the target
        is the law of this context, whatever drafts for it: a small model of the same vocabulary, or another prompt.
        """
        return Draft(self, ahead, tokens)

    def append(self, text: str | Token | Sequence[int]) -> None:
        """Put text or tokens behind the context, without any weight. A pending `mask` is forgotten.

        The bytes of a text are put there as they are, without a blank before it. An end of sequence in it ends nothing
        (turns of a chat are closed by one), unless it is given as a `Token`. Raises ModelError where no tokens have
        the bytes of `text`.
        """
        self.check_open()
        if isinstance(text, Token):
            self.advance(NextToken(self).convert(text).id)
            return
        for token in self.encode(text) if isinstance(text, str) else self._read_ids(text):
            self.put(token)

    def fork(self) -> Context:
        """A second context that stands where this one does; both go on by themselves. It costs nothing."""
        twin = Context(self._execution, self.lm, self.histories, self.node, self.law)
        twin.given = self.given
        twin.ended = self.ended
        twin.log_drawn = self.log_drawn
        return twin

    @property
    def tokens(self) -> list[Token]:
        """All tokens behind the prompt, without the end of sequence that has ended it."""
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

    @property
    def place(self) -> TokenPlace:
        """Where it stands now."""
        return TokenPlace(self.lm.vocabulary, self.node)

    @property
    def held(self) -> tuple[Histories, Node] | None:
        """Where the model must be able to go on, once the text that is being scored is behind it; None at an end."""
        return None if self.ended else (self.histories, self.heading or self.node)

    def check_here(self) -> None:
        """Raises ProgramError outside of the particle that opened it: no record would tell of its moving on."""
        self._execution.check_here(self)

    def check_open(self) -> Context:
        """This context, if something can be put behind it. Raises ProgramError if it has ended, or is another's."""
        self.check_here()
        if self.ended:
            raise ProgramError(
                f"this text has ended, after {quote(_shorten(str(self)))}; ask text.ended before going on"
            )
        return self

    def advance(self, token: int) -> tuple[Node, bool]:
        """Append a token, without any weight, or end here if it is an end of sequence; returns the new position."""
        if token in self.lm.vocabulary.eos:
            self.given, self.ended = None, True
        else:
            self.put(token)
        return self.node, self.ended

    def put(self, token: int) -> None:
        """Append a token that was given, whatever it is, without any weight."""
        self.given = None
        self.node = self.histories.child(self.node, token)
        self._execution.run.limits.spend(self._execution, self.node.depth)

    def ask(self, *, among: TokenSet | None = None, token: int | None = None, draws: bool = False) -> Ask:
        """A question about the next token, for the engine to answer."""
        return Ask(self.histories, self.node, self.law, self.given, among, token, draws)

    def die(self, why: str) -> NoReturn:
        """End its particle here, with weight zero; `why`, if not empty, is told where all have died."""
        if self._execution.past:
            self._execution.leave_record(CONDITION, False)
        self._execution.die(why)

    def query(self, dist: ContextDistribution, value: Any) -> float:
        """The log-probability of a value, without any effect."""
        return self._execution.query(dist, value)

    def encode(self, text: str) -> Sequence[int]:
        """The token ids that have the bytes of `text` (see `LanguageModel.spell`)."""
        if isinstance(text, Token):
            return [NextToken(self).convert(text).id]
        if not isinstance(text, str):
            raise ArgumentError(f"{quote(text)} is no text; give a string")
        return self.lm.spell(text)

    def _read_ids(self, tokens: Any) -> Sequence[int]:
        vocabulary = self.lm.vocabulary
        return read_ids(list_tokens(tokens), min(vocabulary.size, self.lm.n_embeddings), vocabulary)

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
        return f"<context {_shorten(str(self))!r}{' (ended)' if self.ended else ''}>"


def _shorten(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"...{text[-length:]}"
