"""Contexts: a text that grows by its next token, which can be told in parts by masks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, ProgramError, quote
from feynkac.base.masks import unpack
from feynkac.base.numbers import as_whole, read_flag, read_positive
from feynkac.base.tokens import TokenSet
from feynkac.models.language.laws import Law
from feynkac.programs.compat.llamppl.answering import Logits
from feynkac.programs.compat.llamppl.distributions.distribution import Distribution
from feynkac.programs.compat.llamppl.llms import CachedCausalLM, Token, check_lm
from feynkac.programs.compat.llamppl.rows import answer_now, draw_uniform, fetch_answer
from feynkac.programs.compat.llamppl.util import log_softmax
from feynkac.programs.runtime.serving import Ask


class NullMask(Exception):
    """Never raised here, and there to be named: a particle whose mask rules out every token dies."""


class LMContext:
    """A text behind a prompt. A copy of it costs nothing.

    Sampling, observing or intervening on `next_token()` appends a token; on `mask_dist(mask)` it decides whether the
    next token is in the mask. The end of sequence is a token like others.
    """

    def __init__(
        self, lm: CachedCausalLM, prompt: str, temp: float = 1.0, show_prompt: bool = False, show_eos: bool = True
    ) -> None:
        self.lm = check_lm("LMContext", lm)
        self.temp = read_positive("temp", temp, " (a small one is nearly greedy)")
        self.show_prompt = read_flag("show_prompt", show_prompt)
        self.show_eos = read_flag("show_eos", show_eos)
        ids = list(lm.lm.begin(prompt))
        self.prompt_token_count = len(ids)
        self.prompt_string_length = len(str(lm.tokenizer.decode(ids)))
        self.histories = lm.histories
        self.node = lm.find_node(ids)
        self.given: TokenSet | None = None

    @classmethod
    async def create(cls, *args: Any, **kwargs: Any) -> LMContext:
        """A context, as `LMContext(...)` makes it: neither forwards anything before it is needed."""
        return cls(*args, **kwargs)

    def next_token(self) -> LMNextToken:
        """The distribution of the next token."""
        return LMNextToken(self)

    def mask_dist(self, mask: Iterable[int]) -> LMTokenMask:
        """Whether the next token is in a set of ids: True or False."""
        return LMTokenMask(self, mask)

    @property
    def tokens(self) -> list[int]:
        """All ids, those of the prompt among them, as a new list."""
        return [*self.node.prompt, *self.node.tokens()]

    @property
    def token_count(self) -> int:
        """Tokens behind the prompt."""
        return len(self.node.prompt) + self.node.depth - self.prompt_token_count

    @property
    def model_mask(self) -> frozenset[int]:
        """The ids that are not ruled out as the next token."""
        if self.given is None:
            return self.lm.masks.ALL_TOKENS
        return frozenset(np.flatnonzero(unpack(self.given.packed, self.given.size)).tolist())

    @property
    def next_token_logprobs(self) -> NDArray[np.float32]:
        """(V,) log-probabilities of the next token, given the masks."""
        log_p = answer_now(Logits(self.histories, self.node)) / np.float32(self.temp)
        if self.given is not None:
            log_p = np.where(unpack(self.given.packed, self.given.size), log_p, -np.inf)
        return log_softmax(log_p)

    def advance(self, token: int) -> None:
        """Append a token, without any weight."""
        self.node = self.histories.child(self.node, token)
        self.given = None

    def ask(self, *, among: TokenSet | None = None, token: int | None = None, draws: bool = False) -> Ask:
        """A question about the next token."""
        return Ask(self.histories, self.node, Law(self.temp), self.given, among, token, draws)

    def __str__(self) -> str:
        text = str(self.lm.tokenizer.decode(self.tokens))
        if not self.show_prompt:
            text = text[self.prompt_string_length :]
        return text if self.show_eos else text.removesuffix(str(self.lm.tokenizer.eos_token))

    def __copy__(self) -> LMContext:
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> LMContext:
        twin = memo[id(self)] = self.__copy__()
        return twin


class LMNextToken(Distribution):
    """The next token of a context."""

    def __init__(self, ctx: LMContext) -> None:
        self.ctx = ctx

    async def sample(self) -> tuple[Token, float]:
        answer = await fetch_answer(self.ctx.ask(draws=True), self.ctx)
        if answer.token < 0 or answer.log_prob == -np.inf:
            raise ProgramError("no token is left that the masks of this context allow; observe them, to be weighed")
        self.ctx.advance(answer.token)
        return Token(self.ctx.lm, answer.token, self.ctx.lm.str_vocab[answer.token]), answer.log_prob

    async def log_prob(self, x: Any) -> float:
        token = as_whole(x)
        if token is None or not 0 <= token < self.ctx.lm.lm.vocabulary.size:
            raise ArgumentError(f"{quote(x)} is no token of a vocabulary of {self.ctx.lm.lm.vocabulary.size}")
        answer = await fetch_answer(self.ctx.ask(token=token), self.ctx)
        self.ctx.advance(token)
        return answer.log_prob


class LMTokenMask(Distribution):
    """Whether the next token of a context is in a set."""

    def __init__(self, ctx: LMContext, mask: Iterable[int]) -> None:
        self.ctx = ctx
        self.mask = mask

    async def sample(self) -> tuple[bool, float]:
        u = draw_uniform()
        yes, no = await self._find_log_probs()
        value = bool(u < math.exp(yes))
        self._decide(value)
        return value, yes if value else no

    async def log_prob(self, x: bool) -> float:
        yes, no = await self._find_log_probs()
        self._decide(bool(x))
        return yes if x else no

    async def _find_log_probs(self) -> tuple[float, float]:
        self._set = self.ctx.lm.token_set(self.mask)
        found = await fetch_answer(self.ctx.ask(among=self._set), self.ctx)
        return found.increment, found.outside

    def _decide(self, value: bool) -> None:
        allowed = self._set if value else ~self._set
        self.ctx.given = allowed if self.ctx.given is None else self.ctx.given & allowed
