"""A language model that can be prompted, whatever runs it: the class to derive another backend from."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.base.host import find_host
from feynkac.base.numbers import read_whole
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.chats.templates import write_chat
from feynkac.models.language.exact.scoring import score_answers, score_texts
from feynkac.models.language.laws.law import Law, Processor, read_law
from feynkac.models.language.prompted import Prompted
from feynkac.models.language.prompts.openings import Opening, TokenIds, check_end, read_eos, read_ids, read_stops
from feynkac.models.language.prompts.prompt import Prompt
from feynkac.models.language.prompts.spelling import EMPTY, Speller
from feynkac.models.language.proposals.drawing import PromptProblem
from feynkac.models.language.proposals.plain import read_proposal
from feynkac.models.language.protocols import Proposal
from feynkac.smc.checks import call

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from feynkac.models.language.protocols import Contexts
    from feynkac.programs.context import Context


class LanguageModel(ABC):
    """A law over the next token and its tokenizer.

    A backend gives `open`, `window`, `device` and the number of its logits; prompts, programs and steering are here.
    `eos`: the id or ids that end a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, eos: int | Iterable[int]) -> None:
        self.tokenizer = tokenizer
        self._eos = read_eos(eos)
        self._vocabulary: Vocabulary | None = None
        self._spells: Speller | None = None
        self._lock = threading.RLock()

    @abstractmethod
    def open(self, prompts: Sequence[Sequence[int]], max_new: int) -> Contexts:
        """Contexts behind `prompts` (token ids, none empty), to be extended by up to `max_new` tokens (a hint).

        They serve one run, from one thread at a time. Raises ModelError where the prompts cannot be continued.
        """

    def open_prompts(self, prompts: Sequence[Prompt], max_new: int) -> Contexts:
        """As `open`, for prompts of models with the same `batch`."""
        return self.open([prompt.tokens for prompt in prompts], max_new)

    @property
    def batch(self) -> Any:
        """What models have in common whose prompts can be forwarded in one pass: the model itself, by default."""
        return self

    @property
    def variant(self) -> Any:
        """What tells this model from others of its batch; None where nothing does."""
        return None

    @property
    @abstractmethod
    def window(self) -> int | None:
        """Tokens that a text may have, its prompt included; None where there is no limit."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the logits are."""

    @property
    @abstractmethod
    def n_logits(self) -> int:
        """The size of the next-token law, V; the tokenizer may know fewer tokens, or more."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"} | {"_spells": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    @property
    def vocabulary(self) -> Vocabulary:
        """The bytes of every token; as many entries as the model has logits."""
        if self._vocabulary is None:
            with self._lock:  # vocabularies are compared by identity: there must be one
                if self._vocabulary is None:
                    self._vocabulary = Vocabulary.from_tokenizer(self.tokenizer, size=self.n_logits, eos=self._eos)
        return self._vocabulary

    def identify(self) -> dict[str, Any]:
        """What tells this model from others where a saved run goes on, by names that errors give."""
        return {"language model": type(self).__name__, "tokens": self.vocabulary.digest}

    @property
    def n_embeddings(self) -> int:
        """The number of token ids that a prompt may have; V unless a backend says otherwise."""
        return self.n_logits

    @suggest_names()
    def prompt(
        self,
        text: str | None = None,
        *,
        chat: str | Sequence[Mapping[str, Any]] | None = None,
        tokens: TokenIds | None = None,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template: Mapping[str, Any] | None = None,
        max_tokens: int = 100,
        stop: str | Iterable[str] | None = None,
        at_limit: Literal["truncate", "end"] = "truncate",
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
        logits_processor: Sequence[Processor] | None = None,
        proposal: Proposal | Prompted | None = None,
        mix: float = 0.1,
    ) -> Prompted:
        """The law of this model's continuations of a prompt: the thing to steer.

        Give one of `text`, `chat` (a user's message, or a list of {"role", "content"}) and `tokens` (n ids, or an array
        or tensor (n,) or (1, n)). The empty text is the tokenizer's beginning of sequence. A chat that ends in the
        assistant's turn is continued there. Its template is given `tools` (functions or their JSON schemas),
        `documents`, and the variables in `template`, such as {"enable_thinking": False}.

        A text ends at an end-of-sequence token, after `max_tokens` generated tokens, or with the token that completes
        a `stop` string, which stays in the text. `at_limit` says what the length limit means (see `Prompted`).
        `temperature` and what follows it, up to `logits_processor`, are what they are to transformers' `generate`, and
        belong to the law (see `Law`): they change p, and with it the target, the evidence and all scores. None leaves
        one out; nothing is taken from the model's generation config. `proposal` does not belong to the law (see
        `feynkac.models.language.proposals`): by default it is the law under the masks, led by the potentials that can
        guide, and looks ahead where a constraint has few texts; `Masked()` does neither. A prompt of any model of the
        same vocabulary is one, too: `proposal=other.prompt(...)` draws from its law, mixed with `mix` of this one.

        Raises ArgumentError for arguments that cannot be used, ModelError if the window is too small, or where the
        tokenizer knows a token that the model does not.
        """
        opening = Opening.read(text, chat, tokens, tools, documents, template)
        ids = self._begin(opening)
        limit = read_whole("max_tokens", max_tokens, 1)
        stops = read_stops(stop)
        law = read_law(temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram_size, logits_processor)
        law = self.admit(law)
        check_end(at_limit, self._eos)
        self._check_window(len(ids), limit)
        turns = None if opening.chat is None else tuple(opening.chat.messages)
        prompt = Prompt(ids, limit, stops, law, at_limit, self.variant, text=opening.text, chat=turns)
        return Prompted(self, (PromptProblem(prompt, proposal=read_proposal(proposal, mix)),))

    @suggest_names()
    def context(
        self,
        text: str | None = None,
        *,
        chat: str | Sequence[Mapping[str, Any]] | None = None,
        tokens: TokenIds | None = None,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template: Mapping[str, Any] | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
        logits_processor: Sequence[Processor] | None = None,
    ) -> Context:
        """Open a context behind a prompt, inside of a program (see `feynkac.program`).

        Give one of `text`, `chat` and `tokens`, what else a chat's template takes, and the law of the next token (see
        `Law`), as in `prompt`. What is appended or observed is among the tokens that the law reads. Raises
        ArgumentError and ModelError as `prompt` does, ProgramError outside of programs.
        """
        opening = Opening.read(text, chat, tokens, tools, documents, template)
        law = read_law(temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram_size, logits_processor)
        law = self.admit(law)
        return find_host().open_context(self, (opening,), self._begin, law)

    @suggest_names()
    def score(
        self,
        prompt: str | Prompted,
        texts: Iterable[str],
        *,
        end: bool = True,
        spellings: Literal["usual", "all"] = "usual",
    ) -> NDArray[np.float64]:
        """(K,) log-probabilities of K texts as the continuation of `prompt`, in nats; exact, nothing is sampled.

            log_p = lm.score("The sky is", [" blue", " red"])

        `prompt`: a text, or `lm.prompt(...)`, whose law, limit and stop strings then count: a text that fills the limit
        or closes with a stop string is cut there and need not end; none goes on behind a stop string. `end`: whether
        the probability counts that the model ends behind the text; without it longer texts are favoured less by where
        they stop. `spellings`: "usual" scores the tokens that the tokenizer makes of a text, all texts in one forward
        pass; "all" adds every other way to spell it, some hundred passes' worth of prefixes for a dozen characters. The
        former is a lower bound of the latter, and mostly close to it.

        Raises ArgumentError for anything else, and for too many spellings. Whatever the model raises arrives as
        ModelError, with its cause.
        """
        return call(score_texts, self, prompt, texts, end, spellings, of=self, what="score")

    @property
    def chats(self) -> bool:
        """Whether the tokenizer has a template for chats."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def score_answers(
        self, questions: Sequence[str | Sequence[Mapping[str, Any]]], answers: Sequence[str]
    ) -> NDArray[np.float64]:
        """(Q, A) log-probabilities that what follows each question begins with each answer, in nats.

        A question is a text, or a list of messages; an answer is taken as the tokenizer spells it. All questions go
        through the model together. Raises ArgumentError and ModelError as `prompt` and `score` do.
        """
        return call(score_answers, self, questions, answers, of=self, what="score_answers")

    def begin(self, text: str) -> tuple[int, ...]:
        """The token ids of a text that begins with `text` (see `Speller.begin`)."""
        return self._speller.begin(text)

    def spell(self, text: str) -> tuple[int, ...]:
        """The token ids whose bytes are exactly those of `text`, wherever it stands.

        Control tokens stand for their names. Raises ArgumentError for lone surrogates, and ModelError where the
        tokenizer lower-cases, drops or rewrites what is in `text`.
        """
        return self._speller.spell(text)

    @property
    def _speller(self) -> Speller:
        if self._spells is None:
            with self._lock:
                self._spells = self._spells or Speller(self.tokenizer, self.vocabulary, self.n_embeddings)
        return self._spells

    def _begin(self, opening: Opening) -> tuple[int, ...]:
        """The token ids of a prompt."""
        if opening.text is not None:
            return self._speller.begin(opening.text)
        if opening.chat is not None:
            with self._lock:
                written = write_chat(opening.chat, self.tokenizer)
            return self._speller.go_on(written)
        assert opening.tokens is not None
        if not opening.tokens:
            raise ArgumentError(EMPTY)
        return read_ids(opening.tokens, self.n_embeddings, self.vocabulary)

    def admit(self, law: Law) -> Law:
        """A prompt's law. Raises ArgumentError for one that this backend cannot serve; unless it says so, any is."""
        return law

    def _check_window(self, n_prompt: int, max_tokens: int) -> None:
        """Raises ModelError where a prompt of `n_prompt` tokens leaves no room for `max_tokens` more."""
        window = self.window
        if window is not None and n_prompt + max_tokens > window:
            raise ModelError(
                f"the prompt has {n_prompt} tokens and max_tokens is {max_tokens}, but the model's window holds "
                f"{window}; shorten the prompt or set max_tokens to at most {max(window - n_prompt, 0)}"
            )
