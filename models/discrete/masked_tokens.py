"""The tokens that a masked language model may write, and what a text with masks is in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Mask
from feynkac.base.errors import ArgumentError, ModelError, quote
from feynkac.base.lists import as_list
from feynkac.base.numbers import as_whole
from feynkac.base.unicode import check_unicode
from feynkac.base.vocabulary import Vocabulary

_SPELLINGS = ("[MASK]", "<mask>", "<|mask|>", "<|mdm_mask|>")
"""Masks of known models, to tell one that is another tokenizer's."""


@dataclass(frozen=True)
class MaskedTokens:
    """The K clean tokens of a model and its mask. Each has a number from 0, and the mask has K."""

    ids: NDArray[np.int64]
    """(K,) the model's id of each clean token."""
    vocabulary: Vocabulary
    allowed: Mask
    """(K,) those that may be written."""
    special: frozenset[int]
    """The ids of special tokens, which stand around a text."""
    mask: int
    """The model's id of the mask."""
    spelling: str
    """How the mask is written."""

    def number(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """(T,) the numbers of the model's `ids`, K for the mask, and -1 for what is no clean token."""
        table = np.full(max(int(self.ids.max()), self.mask, *ids) + 1, -1)
        table[self.ids] = np.arange(len(self.ids))
        table[self.mask] = len(self.ids)
        return table[np.asarray(ids, np.int64)]

    def split(self, ids: Sequence[int], tokenizer: Any) -> tuple[int, int, NDArray[np.int64]]:
        """Where a text begins and ends among the special tokens around it, and (L,) the numbers of its tokens.

        Raises ArgumentError for a text that has a special token between others.
        """
        inner = [i for i, each in enumerate(ids) if each == self.mask or each not in self.special]
        start, stop = inner[0], inner[-1] + 1
        numbers = self.number(ids[start:stop])
        if (numbers < 0).any():
            place = start + int((numbers < 0).argmax())
            raise ArgumentError(
                f"token {place} of the text, {quote(tokenizer.convert_ids_to_tokens(int(ids[place])))}, has no text, "
                "so that it cannot stand between others; write the text otherwise, or give what is before it as a "
                "prompt: lm.prompt(text, length)"
            )
        return start, stop, numbers

    def surround(self, text: str, tokenizer: Any) -> tuple[list[int], list[int]]:
        """The ids before and behind a mask that follows `text`. Raises ArgumentError for a text that has masks."""
        if isinstance(text, str) and self.spelling in text:
            own = quote(self.spelling)
            raise ArgumentError(f"the prompt has masks of its own, {own}; fill them in with lm.fill(text)")
        plain = encode(tokenizer, text)
        ids = encode(tokenizer, text + self.spelling)
        # A tokenizer that does not know the mask of its model writes it as any other text.
        place = ids.index(self.mask) if self.mask in ids else None
        return (plain, []) if place is None else (ids[:place], ids[place + 1 :])


def read_tokens(
    tokenizer: Any, size: int, mask: int | str | None, eos: int | Iterable[int] | None, only: Iterable[str] | None
) -> MaskedTokens:
    """The clean tokens: those that have a text, without special ones, and the ends `eos` if there are any.

    `size`: rows of the model's output. `only`: texts of those that may be written. Raises ArgumentError, ModelError.
    """
    mask_id, spelling = _read_mask(tokenizer, mask, max(size, len(tokenizer)))
    ends = _read_ends(eos, size)
    texts = _read_texts(tokenizer, size)
    special = frozenset({int(i) for i in tokenizer.all_special_ids} | {mask_id})
    clean = [i for i, text in enumerate(texts) if i in ends or (text and i not in special)]
    if not clean:
        raise ModelError(f"{type(tokenizer).__name__} has special tokens only: none has a text that could be written")
    number = {i: k for k, i in enumerate(clean)}
    vocabulary = Vocabulary(tuple(texts[i] for i in clean), tuple(number[i] for i in ends))
    allowed = np.ones(len(clean), np.bool_) if only is None else _choose(vocabulary, only)
    return MaskedTokens(np.array(clean), vocabulary, allowed, special, mask_id, spelling)


def _read_mask(tokenizer: Any, mask: int | str | None, size: int) -> tuple[int, str]:
    """The id of the mask, and how it is written."""
    name = type(tokenizer).__name__
    if mask is None:
        if tokenizer.mask_token_id is None:
            raise ModelError(
                f"{name} has no mask token; give that of the model, MaskedLM(..., mask=id), which is 126336 for LLaDA; "
                "a model that writes from left to right is a fk.CausalLM"
            )
        return int(tokenizer.mask_token_id), str(tokenizer.mask_token)
    if isinstance(mask, str):
        check_unicode(mask, "mask")
    found = as_whole(tokenizer.convert_tokens_to_ids(mask) if isinstance(mask, str) else mask)
    spelling = None if found is None or not 0 <= found < size else tokenizer.convert_ids_to_tokens(found)
    if found is None or spelling is None or (isinstance(mask, str) and spelling != mask):
        raise ArgumentError(f"mask is {quote(mask)}, which is no token of {name}; give its id, or its text")
    return found, str(spelling)


def _read_ends(eos: int | Iterable[int] | None, size: int) -> tuple[int, ...]:
    given: list[Any] | None = [] if eos is None else [eos] if as_whole(eos) is not None else as_list(eos)
    if given is None:
        raise ArgumentError(f"eos is {quote(eos)}; give a token id below {size}, or a list of ids")
    ends = [as_whole(each) for each in given]
    if any(end is None or not 0 <= end < size for end in ends):
        raise ArgumentError(f"eos is {quote(eos)}; give a token id below {size}, or a list of ids")
    return tuple(sorted({end for end in ends if end is not None}))


def _read_texts(tokenizer: Any, size: int) -> list[bytes]:
    """The bytes of each id; b"" of what has no text."""
    if hasattr(getattr(tokenizer, "backend_tokenizer", tokenizer), "get_added_tokens_decoder"):
        return list(Vocabulary.from_tokenizer(tokenizer, size, ()).tokens)
    # A tokenizer without a definition to read, such as that of ESM: its tokens are the letters of a sequence.
    pieces = [tokenizer.convert_ids_to_tokens(i) if i < len(tokenizer) else "" for i in range(size)]
    letters = [piece.encode() if isinstance(piece, str) and len(piece) == 1 else b"" for piece in pieces]
    if not any(letters):
        raise ModelError(
            f"{type(tokenizer).__name__} has no definition to read the texts of its tokens from; load the fast one"
        )
    return letters


def _choose(vocabulary: Vocabulary, only: Iterable[str]) -> Mask:
    """(K,) the tokens whose text is one of `only`, and the ends."""
    texts = [*only] if isinstance(only, str) else as_list(only)
    if texts is None or not all(isinstance(text, str) for text in texts):
        raise ArgumentError(f"only is {quote(only)}; give the texts of the tokens that may be written")
    for text in texts:
        check_unicode(text, "only")
    wanted = {text.encode() for text in texts}
    missing = sorted(wanted - set(vocabulary.tokens))
    if missing or not wanted:
        told = f"holds {quote(missing[0].decode())}, which is the text of no token" if missing else "is empty"
        raise ArgumentError(f"only {told}; give the texts of the tokens that may be written, spaces included")
    return np.array([text in wanted for text in vocabulary.tokens]) | vocabulary.ends


def encode(tokenizer: Any, text: str, *, special: bool = True) -> list[int]:
    """The model's ids of a text. Raises ArgumentError for what is no text."""
    if not isinstance(text, str):
        raise ArgumentError(f"the text is {quote(text)}; give a string")
    check_unicode(text, "the text")
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def read_ids(tokens: Any, size: int) -> list[int]:
    """Token ids that a user gave, below `size`. Raises ArgumentError for others."""
    ids = [as_whole(each) for each in as_list(tokens) or [None]]
    if any(each is None or not 0 <= each < size for each in ids):
        raise ArgumentError(f"tokens is {quote(tokens)}; give the model's token ids")
    return [each for each in ids if each is not None]


def check_masks(tokens: MaskedTokens, text: str, ids: Sequence[int]) -> None:
    """Raises ArgumentError for a text without masks, and for one of which the tokenizer made another number of them."""
    written, found = text.count(tokens.spelling), list(ids).count(tokens.mask)
    if not written:
        other = next((each for each in _SPELLINGS if each in text), None)
        told = f"holds {quote(other)}, which is another tokenizer's mask" if other else "has no mask"
        raise ArgumentError(
            f"the text {quote(text)} {told}; write {quote(tokens.spelling)} where a token is to be filled in"
        )
    if written != found:
        raise ArgumentError(
            f"the text has {quote(tokens.spelling)} {written} times, of which the tokenizer made {found} masks; give "
            "the model's token ids instead: lm.fill(tokens=[...])"
        )
