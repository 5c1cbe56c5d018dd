"""A Hugging Face causal language model, as feynkac sees it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from feynkac.base.errors import ArgumentError, ModelError
from feynkac.base.host import find_host
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.language.prompted import Prompt, Prompted

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from feynkac.programs.context import Context


class CausalLM:
    """A causal language model and its tokenizer.

        lm = CausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
        lm = CausalLM(model, tokenizer)

    `eos` are the ids that end a text; by default those of the generation config and of the tokenizer. The
    model is put in evaluation mode and is otherwise left as it is. Raises ModelError if there is no
    end-of-sequence token and none is given.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, eos: Iterable[int] | None = None
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self._eos = sorted(set(_eos_ids(model, tokenizer) if eos is None else eos))
        if not self._eos and eos is None:
            raise ModelError(
                f"neither {type(model).__name__} nor its tokenizer names an end-of-sequence token; pass "
                "eos=[id, ...], or eos=[] if texts are to end at max_tokens or at a stop string only"
            )

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        dtype: torch.dtype | str = "auto",
        device: torch.device | str | None = None,
        eos: Iterable[int] | None = None,
        **kwargs: Any,
    ) -> CausalLM:
        """Load a model by its hub id or from a folder; further arguments go to transformers.

        `dtype` "auto" is the checkpoint's own. Raises ModelError if there is no such model or it cannot be loaded.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        own = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "trust_remote_code") if key in kwargs}
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **own)
            model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **kwargs)
        except (OSError, ValueError) as cause:
            reason = str(cause).strip().splitlines()[0]
            raise ModelError(
                f"cannot load a language model from '{name}': {reason} Give the id of a causal language model on the "
                "hub, or the path of a folder that holds config.json, weights and tokenizer."
            ) from cause
        return cls(model if device is None else model.to(device), tokenizer, eos=eos)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The bytes of every token; as many entries as the model has logits."""
        head: Any = self.model.get_output_embeddings()
        size = self.model.config.vocab_size if head is None else head.weight.shape[0]
        return Vocabulary.from_tokenizer(self.tokenizer, size=size, eos=self._eos)

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
    ) -> Prompted:
        """The law of this model's continuations of a prompt: the thing to steer.

        Give one of `text`, `chat` (a user's message, or a list of {"role", "content"}) and `tokens`. A text ends at an
        end-of-sequence token, after `max_tokens` generated tokens, or with the token that completes a `stop` string,
        which stays in the text. `at_limit` says what the length limit means (see `Prompted`). `temperature` belongs
        to the law. Raises ArgumentError for arguments out of range, ModelError if the model's window is too small.
        """
        ids = self._prompt_ids(text, chat, tokens)
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        if not ids:
            raise ArgumentError("the prompt is empty; a language model needs at least one token to continue")
        if max_tokens < 1:
            raise ArgumentError(f"max_tokens is {max_tokens}; it must be at least 1")
        if not temperature > 0.0 or temperature == float("inf"):
            raise ArgumentError(f"temperature is {temperature}; it must be positive (a small one is nearly greedy)")
        if at_limit not in ("truncate", "end"):
            raise ArgumentError(f"at_limit is {at_limit!r}; it must be 'truncate' or 'end'")
        if at_limit == "end" and not self._eos:
            raise ArgumentError("at_limit='end' needs an end-of-sequence token, and this model was given none")
        if "" in stops:
            raise ArgumentError("a stop string is empty; leave it out")
        self._check_window(len(ids), max_tokens)
        prompt = Prompt(ids, max_tokens, tuple(s.encode() for s in stops), temperature, at_limit)
        return Prompted(self, (prompt,))

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
        if not temperature > 0.0 or temperature == float("inf"):
            raise ArgumentError(f"temperature is {temperature}; it must be positive (a small one is nearly greedy)")
        return find_host().open_context(self, (text, chat, tokens), self._opened_ids, temperature)

    def _opened_ids(self, text: str | None, chat: Any, tokens: Sequence[int] | None) -> tuple[int, ...]:
        if not (ids := self._prompt_ids(text, chat, tokens)):
            raise ArgumentError("the prompt is empty; a language model needs at least one token to continue")
        return ids

    def _prompt_ids(self, text: str | None, chat: Any, tokens: Sequence[int] | None) -> tuple[int, ...]:
        if sum(given is not None for given in (text, chat, tokens)) != 1:
            raise ArgumentError("give the prompt as one of text, chat= and tokens=")
        if text is not None:
            return tuple(self.tokenizer(text)["input_ids"]) if text else ()
        if chat is not None:
            return self._chat_ids(chat)
        assert tokens is not None
        size = self.vocabulary.size
        if any(not 0 <= token < size for token in tokens):
            raise ArgumentError(f"a prompt token lies outside of the vocabulary of {size}")
        return tuple(int(token) for token in tokens)

    def _chat_ids(self, chat: str | Sequence[dict[str, str]]) -> tuple[int, ...]:
        if not getattr(self.tokenizer, "chat_template", None):
            raise ModelError("this tokenizer has no chat template; pass the prompt as text")
        messages = [{"role": "user", "content": chat}] if isinstance(chat, str) else list(chat)
        written: Any = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return tuple(self.tokenizer(written, add_special_tokens=False)["input_ids"])

    def _check_window(self, n_prompt: int, max_tokens: int) -> None:
        window = getattr(self.model.config, "max_position_embeddings", None)
        if window is not None and n_prompt + max_tokens > window:
            raise ModelError(
                f"the prompt has {n_prompt} tokens and max_tokens is {max_tokens}, but the model's window holds "
                f"{window}; shorten the prompt or set max_tokens to at most {max(window - n_prompt, 0)}"
            )

    def __repr__(self) -> str:
        return f"CausalLM({type(self.model).__name__}, {self.model.dtype}, {self.model.device})"


def _eos_ids(model: Any, tokenizer: Any) -> list[int]:
    # Chat models end a turn and a document with different tokens: generation config and tokenizer may each know one.
    found = [getattr(source, "eos_token_id", None) for source in (getattr(model, "generation_config", None), tokenizer)]
    return [int(i) for ids in found if ids is not None for i in (ids if isinstance(ids, list | tuple) else [ids])]
