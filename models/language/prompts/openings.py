"""What a text begins with, as it is asked for, and the numbers and strings that say how it goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list, as_sequence
from feynkac.base.numbers import as_real, as_whole
from feynkac.base.tokens import Token
from feynkac.base.unicode import check_unicode
from feynkac.models.chats.messages import Chat, read_chat

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.vocabulary import Vocabulary

TokenIds: TypeAlias = "Sequence[int] | Sequence[Token] | NDArray[np.integer[Any]] | Tensor"
_COLDEST, _HOTTEST = 1e-30, 1e30  # so that one over it, and a logit over it, are numbers of float32
_SEVERAL = "one prompt a call; a list of prompts is a list of models: [lm.prompt(one) for one in prompts]"


@dataclass(frozen=True)
class Opening:
    """A prompt as it was asked for: one of `text`, `chat` and `tokens` is given. Its repr tells it whole."""

    text: str | None = None
    chat: Chat | None = None
    tokens: list[Any] | None = None

    @classmethod
    def read(cls, text: Any, chat: Any, tokens: Any, tools: Any, documents: Any, template: Any) -> Opening:
        """The prompt that the arguments of `LanguageModel.prompt` mean. Raises ArgumentError if they mean none."""
        if sum(given is not None for given in (text, chat, tokens)) != 1:
            raise ArgumentError("give the prompt as one of text, chat= and tokens=")
        if chat is not None:
            return cls(chat=read_chat(chat, tools, documents, template))
        for name, given in (("tools", tools), ("documents", documents), ("template", template)):
            if given is not None:
                raise ArgumentError(f"{name}= is for the template of a chat; give the prompt as chat=")
        if tokens is not None:
            return cls(tokens=list_tokens(tokens))
        if not isinstance(text, str):
            raise ArgumentError(f"the prompt is {quote(text)}; {_advise(text)}")
        check_unicode(text, "the prompt")
        return cls(text=str(text))


def read_ids(tokens: Sequence[Any], n_embeddings: int, vocabulary: Vocabulary) -> tuple[int, ...]:
    """Token ids from whole numbers or tokens. Raises ArgumentError for others, and for ids that the model has not."""
    ids = list[int]()
    for i, token in enumerate(tokens):
        if isinstance(token, Token) and token.vocabulary is not vocabulary:
            raise ArgumentError(f"tokens[{i}] is {quote(token)} of another model's vocabulary; give texts, or ids")
        id = token.id if isinstance(token, Token) else as_whole(token)
        if id is None:
            raise ArgumentError(f"tokens[{i}] is {quote(token)}; give token ids, which are integers")
        if not 0 <= id < n_embeddings:
            raise ArgumentError(f"tokens[{i}] is {id}, which lies outside of the vocabulary of {n_embeddings}")
        ids.append(id)
    return tuple(ids)


def read_eos(eos: Any) -> list[int]:
    """The ids that end a text, sorted, from one id or several. Raises ArgumentError for others."""
    one = as_whole(eos)
    listed = as_list(eos) if one is None else [one]
    if listed is None:
        raise ArgumentError(f"eos is {quote(eos)}; give a token id, or a list of ids")
    ids = [as_whole(id) for id in listed]
    if any(id is None or id < 0 for id in ids):
        raise ArgumentError(f"eos is {quote(eos)}; give a token id, or a list of ids")
    return sorted({id for id in ids if id is not None})


def read_stops(stop: Any) -> tuple[bytes, ...]:
    """The stop strings as bytes; None means none. Raises ArgumentError for what is no text, or empty."""
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else as_list(stop)
    if stops is None:
        raise ArgumentError(f"stop is {quote(stop)}; give a string, or a list of strings")
    for one in stops:
        if not isinstance(one, str):
            raise ArgumentError(f"stop holds {quote(one)}; give a string, or a list of strings")
        if not one:
            raise ArgumentError("a stop string is empty; leave it out")
        check_unicode(one, "a stop string")
    return tuple(one.encode() for one in stops)


def check_end(at_limit: Any, eos: Sequence[int]) -> None:
    """Raises ArgumentError for what says nothing of the limit, or asks for an end that the model has not."""
    if not isinstance(at_limit, str) or at_limit not in ("truncate", "end"):
        raise ArgumentError(f"at_limit is {quote(at_limit)}; it must be 'truncate' or 'end'")
    if at_limit == "end" and not eos:
        raise ArgumentError("at_limit='end' needs an end-of-sequence token, and this model was given none")


def read_temperature(temperature: Any) -> float:
    """A temperature as a float. Raises ArgumentError for what is no number, or none that logits can be divided by."""
    number = as_real(temperature)
    if number is None or not _COLDEST <= number <= _HOTTEST:
        raise ArgumentError(
            f"temperature is {quote(temperature)}; give a number, such as 0.7, from {_COLDEST} (nearly greedy) to "
            f"{_HOTTEST}"
        )
    return number


def list_tokens(tokens: Any) -> list[Any]:
    """The entries of a list, array or tensor (n,) or (1, n). Raises ArgumentError for what has none."""
    if isinstance(tokens, Mapping):
        raise ArgumentError("tokens is what a tokenizer returns; give its input_ids: tokens=tokenizer(text).input_ids")
    array: Any = tokens
    try:
        listed = array.tolist() if hasattr(array, "tolist") and getattr(array, "ndim", 1) else as_list(array)
    except (RuntimeError, NotImplementedError) as cause:  # a tensor of the device "meta", or a sparse one
        raise ArgumentError(f"the numbers of tokens, {quote(tokens)}, cannot be read: {quote(cause)}") from cause
    if listed is None or isinstance(tokens, Set):
        raise ArgumentError(f"tokens is {quote(tokens)}; give a list of token ids, or a text as lm.prompt(text)")
    if not any(getattr(one, "ndim", 0) or (isinstance(one, Sequence) and not isinstance(one, str)) for one in listed):
        return listed
    if len(listed) != 1:
        raise ArgumentError(f"tokens holds {len(listed)} rows; {_SEVERAL}")
    return list_tokens(listed[0])


def _advise(text: Any) -> str:
    """What to give instead of a prompt that is no string."""
    if isinstance(text, bytes):
        return "decode it: text.decode()"
    if isinstance(text, Mapping):
        return "give messages as chat=[message]"
    listed = as_sequence(text)
    if listed and all(isinstance(one, Mapping) for one in listed):
        return "give messages as chat="
    if hasattr(text, "ndim") or (listed and as_whole(listed[0]) is not None):
        return "give token ids as tokens="
    return _SEVERAL if isinstance(text, Iterable) else "give a string"
