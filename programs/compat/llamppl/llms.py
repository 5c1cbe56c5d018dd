"""The language model of a LLaMPPL program, its tokens and its masks."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list
from feynkac.base.masks import pack
from feynkac.base.numbers import as_whole, read_whole
from feynkac.base.tokens import TokenSet
from feynkac.models.language.histories import Histories
from feynkac.models.language.lm import CausalLM
from feynkac.models.language.nodes import Node
from feynkac.programs.compat.llamppl.answering import Logits
from feynkac.programs.compat.llamppl.rows import answer_now, fetch_answer

_MID_PUNCTUATION = (",", ":", ";", "-", '"')
_END_PUNCTUATION = (".", "!", "?")


class CachedCausalLM:
    """A language model with its tokens as text; `CachedCausalLM(lm)` wraps a `feynkac.CausalLM`.

    `batch_size` and `timeout` are accepted and do nothing: all that waits is always one batch.
    """

    backend = "hf"

    def __init__(self, lm: CausalLM) -> None:
        if not isinstance(lm, CausalLM):
            raise ArgumentError(f"CachedCausalLM({quote(lm)}): give a feynkac.CausalLM, or use from_pretrained(name)")
        self.lm = lm
        self.model = lm.model
        self.tokenizer = lm.tokenizer
        self.batch_size = 1
        self.timeout = 0.0
        self.clear_cache()

    @classmethod
    def from_pretrained(
        cls, model_id: str, backend: str | None = None, *, auth_token: str | None = None,
        hf_opts: dict[str, Any] | None = None, **kwargs: Any,
    ) -> CachedCausalLM:  # fmt: skip
        """Load a model by its hub id or from a folder.

        `hf_opts` go to transformers; `backend` and the options of other backends are accepted and do nothing.
        """
        token = {"token": auth_token} if auth_token else {}
        return cls(CausalLM.from_pretrained(model_id, **{**token, **(hf_opts or {})}))

    @cached_property
    def byte_vocab(self) -> list[bytes]:
        """What each token stands for; a special token stands for its name."""
        special = {i: str(self.tokenizer.convert_ids_to_tokens(i)).encode() for i in self.tokenizer.all_special_ids}
        return [special.get(i, token) for i, token in enumerate(self.lm.vocabulary.tokens)]

    @cached_property
    def str_vocab(self) -> list[str]:
        """The text of each token; U+FFFD where it is no whole character."""
        return [token.decode("utf-8", "replace") for token in self.byte_vocab]

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self.lm.device

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text, as the tokenizer names it; else the first that the model knows of."""
        named = self.tokenizer.eos_token_id
        return named if isinstance(named, int) else next(iter(self.lm.vocabulary.eos), None)

    @property
    def vocab(self) -> list[str]:
        """An older name of `str_vocab`."""
        return self.str_vocab

    @cached_property
    def masks(self) -> Masks:
        return Masks(self)

    async def next_token_logprobs(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """(V,) log-probabilities of the next token; those that wait for some are served together."""
        return await fetch_answer(Logits(self.histories, self.find_node(token_ids)))

    def next_token_logprobs_unbatched(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """(V,) log-probabilities of the next token, at once."""
        return answer_now(Logits(self.histories, self.find_node(token_ids)))

    def cache_kv(self, prompt_tokens: Sequence[int]) -> None:
        """Nothing: what particles have in common is always cached."""

    def clear_cache(self) -> None:
        """Forget all keys and values. Contexts that there are keep their own."""
        self.histories = Histories(self.lm)
        self._nodes: WeakValueDictionary[tuple[int, ...], Node] = WeakValueDictionary()

    clear_kv_cache = reset_async_queries = clear_cache

    def find_node(self, token_ids: Sequence[int]) -> Node:
        """The history `token_ids`: a prompt, or a known one and a few tokens more."""
        ids = tuple(_read_ids(token_ids, self.lm.vocabulary.size))
        if not ids:
            raise ArgumentError("the prompt is empty; a language model needs at least one token to continue")
        for known in range(len(ids), max(len(ids) - 8, 0), -1):
            if (node := self._nodes.get(ids[:known])) is not None:
                break
        else:
            known = len(ids)
            node = self.histories.root(ids, self.lm.variant)
        for i in range(known, len(ids)):
            node = self.histories.child(node, ids[i])
        self._nodes[ids] = node
        return node

    def token_set(self, ids: Iterable[int]) -> TokenSet:
        """A mask as the engine takes it."""
        if isinstance(ids, frozenset) and (known := self._sets.get(id(ids))) is not None:
            return known[1]
        allowed = np.zeros(self.lm.vocabulary.size, np.bool_)
        allowed[_read_ids(ids, len(allowed))] = True
        packed = TokenSet(pack(allowed), len(allowed))
        if isinstance(ids, frozenset):
            self._sets[id(ids)] = ids, packed  # the key stays that set's own as long as it is kept here
        return packed

    @cached_property
    def _sets(self) -> dict[int, tuple[frozenset[int], TokenSet]]:
        return {}

    def __deepcopy__(self, memo: Any) -> CachedCausalLM:
        return self

    def __repr__(self) -> str:
        return f"CachedCausalLM({self.lm!r})"


def check_lm(who: str, lm: Any) -> CachedCausalLM:
    """`lm`. Raises ArgumentError for what is no language model of a LLaMPPL program; `who` was given it."""
    if not isinstance(lm, CachedCausalLM):
        raise ArgumentError(f"{who}: {quote(lm)} is no CachedCausalLM; give CachedCausalLM(lm) of a feynkac.CausalLM")
    return lm


class Masks:
    """Sets of token ids. They can be combined by `|`, `&` and `-`."""

    def __init__(self, lm: CachedCausalLM) -> None:
        special = set(lm.tokenizer.all_special_ids)
        texts = {i: text for i, text in enumerate(lm.str_vocab) if text and i not in special}
        no_word = string.whitespace + string.punctuation
        self._lengths = {i: 0 for i in range(len(lm.str_vocab))} | {i: len(text) for i, text in texts.items()}
        self.ALL_TOKENS = frozenset(range(len(lm.str_vocab)))
        self.STARTS_NEW_WORD = frozenset(i for i, v in texts.items() if v[0] == " " and v[1:2] and v[1] not in no_word)
        self.CONTINUES_CURRENT_WORD = frozenset(i for i, v in texts.items() if all(c == "'" or c.isalpha() for c in v))
        self.MID_PUNCTUATION = frozenset(i for i, v in texts.items() if v in _MID_PUNCTUATION)
        self.END_PUNCTUATION = frozenset(i for i, v in texts.items() if v in _END_PUNCTUATION)
        self.PUNCTUATION = self.MID_PUNCTUATION | self.END_PUNCTUATION
        self.CONTAINS_WHITESPACE = frozenset(i for i, v in texts.items() if set(v) & set(string.whitespace))
        self.EOS = frozenset(() if lm.eos_token_id is None else [lm.eos_token_id])
        self._by_length: dict[tuple[int, float], frozenset[int]] = {}

    def token_length_mask(self, min: int | None = None, max: int | None = None) -> frozenset[int]:
        """Tokens of `min` to `max` characters; a special token has none."""
        low = 0 if min is None else read_whole("min", min, 0)
        high = float("inf") if max is None else read_whole("max", max, -1)
        if (low, high) not in self._by_length:
            self._by_length[low, high] = frozenset(i for i, n in self._lengths.items() if low <= n <= high)
        return self._by_length[low, high]

    def __deepcopy__(self, memo: Any) -> Masks:
        return self


class Token:
    """A token: equal to a token, to its id, or to its text."""

    def __init__(self, lm: CachedCausalLM, token_id: int, token_str: str) -> None:
        self.lm = lm
        self.token_id = token_id
        self.token_str = token_str

    def __add__(self, other: Any) -> TokenSequence:
        return TokenSequence(self.lm, [self.token_id]) + other

    def __radd__(self, other: Any) -> TokenSequence:
        return other + TokenSequence(self.lm, [self.token_id])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Token):
            return self.lm is other.lm and self.token_id == other.token_id
        return (self.token_id if isinstance(other, int | np.integer) else self.token_str) == other

    def __hash__(self) -> int:
        return hash(self.token_id)

    def __int__(self) -> int:
        return self.token_id

    __index__ = __int__

    def __str__(self) -> str:
        return self.token_str

    def __repr__(self) -> str:
        return f"<{self.token_str}|{self.token_id}>"

    def __deepcopy__(self, memo: Any) -> Token:
        return self


class TokenSequence:
    """Token ids that grow by `+`: other sequences, tokens, ids, and texts, which are tokenized."""

    def __init__(self, lm: CachedCausalLM, seq: str | Sequence[int] | None = None) -> None:
        self.lm = check_lm("TokenSequence", lm)
        if seq is None and lm.tokenizer.bos_token_id is None:
            raise ArgumentError("TokenSequence(lm): this tokenizer has no token that begins a text; give a text or ids")
        start: Any = [lm.tokenizer.bos_token_id] if seq is None else seq
        size = lm.lm.vocabulary.size
        self.seq: list[int] = _encode(lm, start, True) if isinstance(start, str) else _read_ids(start, size)

    def __iadd__(self, other: Any) -> TokenSequence:
        self.seq.extend(self._read_ids(other))
        return self

    def __add__(self, other: Any) -> TokenSequence:
        return TokenSequence(self.lm, self.seq + self._read_ids(other))

    def __radd__(self, other: Any) -> TokenSequence:
        return TokenSequence(self.lm, self._read_ids(other) + self.seq)

    def _read_ids(self, other: Any) -> list[int]:
        if isinstance(other, Token | TokenSequence) and other.lm is not self.lm:
            raise ArgumentError("tokens of two language models cannot be joined; join their texts")
        if isinstance(other, TokenSequence):
            return list(other.seq)
        if isinstance(other, str):
            return _encode(self.lm, other, False)
        if as_whole(other) is not None:
            return _read_ids([other], self.lm.lm.vocabulary.size)
        raise ArgumentError(f"{quote(other)} cannot be added to tokens; give tokens, ids or text")

    def __str__(self) -> str:
        return str(self.lm.tokenizer.decode(self.seq))


def _read_ids(ids: Any, size: int) -> list[int]:
    """Ids of tokens, below `size`. Raises ArgumentError for others."""
    listed = as_list(ids)
    found = [] if listed is None else [as_whole(each) for each in listed]
    known = [each for each in found if each is not None and 0 <= each < size]
    if listed is None or len(known) < len(listed):
        raise ArgumentError(f"{quote(ids)} are no ids of tokens, whole numbers below the vocabulary of {size}")
    return known


def _encode(lm: CachedCausalLM, text: str, special: bool) -> list[int]:
    if special:  # a beginning, to be gone on with
        return list(lm.lm.begin(text)) if text else []
    return list(lm.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []  # pyright: ignore[reportArgumentType]
