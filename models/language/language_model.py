"""A language model that can be prompted, whatever runs it: the class to derive another backend from."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from feynkac.base.errors import ArgumentError, ModelError
from feynkac.base.host import find_host
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.language.prompted import Prompt, Prompted
from feynkac.models.language.proposals import MASKED
from feynkac.models.language.protocols import Proposal

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from feynkac.models.language.protocols import Contexts
    from feynkac.programs.context import Context


class LanguageModel(ABC):
    """A law over the next token and its tokenizer.

    A backend gives `open`, `window`, `device` and the number of its logits; prompts, programs and steering are here.
    `eos`: the ids that end a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, eos: Iterable[int]) -> None:
        self.tokenizer = tokenizer
        self._eos = sorted(set(eos))
        self._vocabulary: Vocabulary | None = None
        self._lock = threading.RLock()

    @abstractmethod
    def open(self, prompts: Sequence[Sequence[int]], max_new: int) -> Contexts:
        """Contexts behind `prompts` (token ids, none empty), to be extended by up to `max_new` tokens (a hint).

        They serve one run, from one thread at a time. Raises ModelError where the prompts cannot be continued.
        """

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
        return {name: value for name, value in vars(self).items() if name != "_lock"}

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

    def prompt(
        self,
        text: str | None = None,
        *,
        chat: str | Sequence[dict[str, str]] | None = None,
        tokens: Sequence[int] | None = None,
        max_tokens: int = 100,
        stop: str | Sequence[str] = (),
        temperature: float = 1.0,
        at_limit: Literal["truncate", "end"] = "truncate",
        proposal: Proposal = MASKED,
    ) -> Prompted:
        """The law of this model's continuations of a prompt: the thing to steer.

        Give one of `text`, `chat` (a user's message, or a list of {"role", "content"}) and `tokens`. A text ends at an
        end-of-sequence token, after `max_tokens` generated tokens, or with the token that completes a `stop` string,
        which stays in the text. `at_limit` says what the length limit means (see `Prompted`). `temperature` belongs
        to the law; `proposal` does not (see `feynkac.models.language.proposals`). Raises ArgumentError for arguments
        out of range, ModelError if the model's window is too small.
        """
        ids = self._read_opening(text, chat, tokens)
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        if max_tokens < 1:
            raise ArgumentError(f"max_tokens is {max_tokens}; it must be at least 1")
        _check_temperature(temperature)
        if at_limit not in ("truncate", "end"):
            raise ArgumentError(f"at_limit is {at_limit!r}; it must be 'truncate' or 'end'")
        if at_limit == "end" and not self._eos:
            raise ArgumentError("at_limit='end' needs an end-of-sequence token, and this model was given none")
        if "" in stops:
            raise ArgumentError("a stop string is empty; leave it out")
        if isinstance(proposal, type) or not isinstance(proposal, Proposal):
            raise ArgumentError(
                f"proposal is {proposal!r}; give one of feynkac.models.language.proposals, or an object with "
                "draw(frontier)"
            )
        self._check_window(len(ids), max_tokens)
        prompt = Prompt(ids, max_tokens, tuple(s.encode() for s in stops), temperature, at_limit)
        return Prompted(self, (prompt,), proposal=proposal)

    def context(
        self,
        text: str | None = None,
        *,
        chat: str | Sequence[dict[str, str]] | None = None,
        tokens: Sequence[int] | None = None,
        temperature: float = 1.0,
    ) -> Context:
        """Open a context behind a prompt, inside of a program (see `feynkac.program`).

        Give one of `text`, `chat` (a user's message, or a list of {"role", "content"}) and `tokens`; the temperature
        belongs to the law. Raises ArgumentError for bad arguments, ProgramError outside of programs.
        """
        _check_temperature(temperature)
        return find_host().open_context(self, (text, chat, tokens), self._read_opening, temperature)

    def _read_opening(self, text: str | None, chat: Any, tokens: Sequence[int] | None) -> tuple[int, ...]:
        if not (ids := self._read_ids(text, chat, tokens)):
            raise ArgumentError("the prompt is empty; a language model needs at least one token to continue")
        return ids

    def _read_ids(self, text: str | None, chat: Any, tokens: Sequence[int] | None) -> tuple[int, ...]:
        if sum(given is not None for given in (text, chat, tokens)) != 1:
            raise ArgumentError("give the prompt as one of text, chat= and tokens=")
        if text is not None:
            return self._encode(text) if text else ()
        if chat is not None:
            return self._read_chat(chat)
        assert tokens is not None
        size = self.vocabulary.size
        if any(not 0 <= token < size for token in tokens):
            raise ArgumentError(f"a prompt token lies outside of the vocabulary of {size}")
        return tuple(int(token) for token in tokens)

    def _read_chat(self, chat: str | Sequence[dict[str, str]]) -> tuple[int, ...]:
        if not getattr(self.tokenizer, "chat_template", None):
            raise ModelError("this tokenizer has no chat template; pass the prompt as text")
        messages = [{"role": "user", "content": chat}] if isinstance(chat, str) else list(chat)
        with self._lock:
            written: Any = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return self._encode(written, add_special_tokens=False)

    def _encode(self, text: str, **kwargs: Any) -> tuple[int, ...]:
        with self._lock:  # tokenizers set their truncation for each call
            return tuple(self.tokenizer(text, **kwargs)["input_ids"])

    def _check_window(self, n_prompt: int, max_tokens: int) -> None:
        window = self.window
        if window is not None and n_prompt + max_tokens > window:
            raise ModelError(
                f"the prompt has {n_prompt} tokens and max_tokens is {max_tokens}, but the model's window holds "
                f"{window}; shorten the prompt or set max_tokens to at most {max(window - n_prompt, 0)}"
            )


def _check_temperature(temperature: float) -> None:
    if not temperature > 0.0 or temperature == float("inf"):
        raise ArgumentError(f"temperature is {temperature}; it must be positive (a small one is nearly greedy)")
