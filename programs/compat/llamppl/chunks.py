"""Words as sub-models: a word is sampled token by token, and its end is decided by the model."""

from __future__ import annotations

import string
from typing import Any

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_whole
from feynkac.programs.compat.llamppl.distributions.lmcontext import LMContext
from feynkac.programs.compat.llamppl.modeling import submodel


@submodel
async def sample_word(
    self: Any, context: LMContext, max_tokens: int = 5, allow_punctuation: bool = True
) -> tuple[str, str]:
    """A word of at most `max_tokens` tokens with the space before it, and a punctuation mark or ""."""
    _check_context(context)
    masks, max_tokens = context.lm.masks, read_whole("max_tokens", max_tokens, 1)
    word = ""
    await self.observe(context.mask_dist(_list_starts(context)), True)
    for left in range(max_tokens - 1, -1, -1):
        word += str(await self.sample(context.next_token()))
        if await _ends(self, context, forced=left == 0):
            break
    if allow_punctuation and await self.sample(context.mask_dist(masks.PUNCTUATION)):
        return word, str(await self.sample(context.next_token()))
    return word, ""


@submodel
async def sample_word_2(
    self: Any, context: LMContext, max_chars: int | None = None, allow_mid_punctuation: bool = True,
    allow_end_punctuation: bool = True,
) -> tuple[str, str, str]:  # fmt: skip
    """A word of at most `max_chars` characters, and a mark of punctuation in and at the end of a sentence, or ""."""
    _check_context(context)
    max_chars = None if max_chars is None else read_whole("max_chars", max_chars, 1, ": a word has a character")
    masks = context.lm.masks
    word = ""
    starts = _list_starts(context)
    await self.observe(context.mask_dist(starts), True)
    while True:
        if max_chars is not None:
            room = max_chars - len(word.strip())
            if not word and starts is masks.STARTS_NEW_WORD:
                room += 1  # the space before it
            await self.observe(context.mask_dist(masks.token_length_mask(min=1, max=room)), True)
        word += str(await self.sample(context.next_token()))
        if await _ends(self, context, forced=max_chars is not None and len(word.strip()) >= max_chars):
            break
    mark = (masks.MID_PUNCTUATION if allow_mid_punctuation else frozenset()) | (
        masks.END_PUNCTUATION if allow_end_punctuation else frozenset()
    )
    if mark and await self.sample(context.mask_dist(mark)):
        token = await self.sample(context.next_token())
        return (word, str(token), "") if token.token_id in masks.MID_PUNCTUATION else (word, "", str(token))
    return word, "", ""


def _check_context(context: Any) -> None:
    if not isinstance(context, LMContext):
        raise ArgumentError(f"a word is sampled from {quote(context)}; give an LMContext")


def _list_starts(context: LMContext) -> frozenset[int]:
    """What a word can begin with: a space, unless one stands there already, or a hyphen or a quotation mark."""
    last = context.lm.str_vocab[context.tokens[-1]][-1:]
    inside = not last or last in string.whitespace or last in "-'\""
    return context.lm.masks.CONTINUES_CURRENT_WORD if inside else context.lm.masks.STARTS_NEW_WORD


async def _ends(self: Any, context: LMContext, *, forced: bool) -> bool:
    """Whether the word ends here: sampled, or observed where it has to."""
    goes_on = context.mask_dist(context.lm.masks.CONTINUES_CURRENT_WORD)
    if forced:
        await self.observe(goes_on, False)
        return True
    return not await self.sample(goes_on)
