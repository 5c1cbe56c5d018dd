"""Texts as token ids: the beginning of a text as its tokenizer has it, and any text behind it byte for byte."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from feynkac.base.errors import ArgumentError, ModelError, quote
from feynkac.base.unicode import check_unicode
from feynkac.base.vocabulary import Vocabulary

EMPTY = "the prompt is empty; a language model needs at least one token to continue"


class Speller:
    """The way from text to token ids by one tokenizer, checked.

    `n_embeddings`: the ids that the model can read; a tokenizer may know more.
    """

    def __init__(self, tokenizer: Any, vocabulary: Vocabulary, n_embeddings: int) -> None:
        self._tokenizer, self._vocabulary, self._n_embeddings = tokenizer, vocabulary, n_embeddings
        self._lock = threading.Lock()  # tokenizers set their truncation for each call

    def begin(self, text: str) -> tuple[int, ...]:
        """A text that begins with `text`, spelt as the tokenizer spells beginnings, and open at its end.

        What the tokenizer puts before a text stays, and what it puts behind one, such as an end of sequence, does
        not. The empty text is the beginning of sequence. Raises ArgumentError if there is no token, ModelError for
        one that the model cannot read.
        """
        ids = self._begin(text)
        if not ids:
            raise ArgumentError(EMPTY)
        return self.check_readable(ids)

    def go_on(self, text: str) -> tuple[int, ...]:
        """What a template has written, which has the tokens before and behind it already. Raises as `begin` does."""
        if not (ids := self._encode(text, add_special_tokens=False)["input_ids"]):
            raise ArgumentError(EMPTY)
        return self.check_readable(ids)

    def spell(self, text: str) -> tuple[int, ...]:
        """The tokens whose bytes are those of `text`, wherever it stands; control tokens stand for their names.

        Raises ArgumentError for what is no text, and ModelError if the tokenizer makes another text of it.
        """
        check_unicode(text, f"the text {quote(text)}")
        if not text:
            return ()
        ids = self.check_readable(self._encode(text, add_special_tokens=False)["input_ids"])
        if wrong := [i for i in ids if i >= self._vocabulary.size]:
            raise ModelError(f"{self._name(wrong[0])} is beyond the {self._vocabulary.size} that the model can write")
        if self._write(ids) != text.encode() and self._bare is not None:
            ids = tuple(self._bare.encode(text, add_special_tokens=False).ids)
        if (found := self._write(ids)) != text.encode():
            raise ModelError(
                f"the tokenizer of this model makes {quote(found.decode('utf-8', 'replace'))} of the text "
                f"{quote(text)}; give a text that it keeps as it is, or token ids"
            )
        return ids

    def find_control(self, text: str) -> str | None:
        """The name of a control token that occurs in a text; None where none does."""
        written = text.encode()
        return next((name.decode() for name in self._names.values() if name and name in written), None)

    def check_readable(self, ids: Sequence[int]) -> tuple[int, ...]:
        """`ids`. Raises ModelError if the model has no embedding for one of them."""
        if wrong := [i for i in ids if i >= self._n_embeddings]:
            raise ModelError(
                f"the tokenizer makes {self._name(wrong[0])} of this text, and the model has embeddings for "
                f"{self._n_embeddings} only; use the model's own tokenizer, or resize the embeddings first"
            )
        return tuple(ids)

    def _begin(self, text: str) -> Sequence[int]:
        encoding = self._encode(text)
        ids = list(encoding["input_ids"])
        if not text:
            return self._begin_with_nothing(ids)
        owner = encoding.sequence_ids(0)  # None for what the tokenizer has added
        while ids and owner[len(ids) - 1] is None:
            ids.pop()
        return ids

    def _begin_with_nothing(self, ids: list[int]) -> list[int]:
        tokenizer = self._tokenizer
        closing = {*self._vocabulary.eos, tokenizer.eos_token_id, tokenizer.sep_token_id}
        while ids and ids[-1] in closing:
            ids.pop()
        bos = tokenizer.bos_token_id
        return ids or ([] if bos is None else [bos])

    def _encode(self, text: str, **kwargs: Any) -> Any:
        try:
            with self._lock:
                return self._tokenizer(text, **kwargs)
        except Exception as cause:
            raise ModelError(
                f"the tokenizer raised {type(cause).__name__} on the text {quote(text)}: {cause}"
            ) from cause

    def _write(self, ids: Iterable[int]) -> bytes:
        """What the tokens stand for, control tokens by their names."""
        names, tokens = self._names, self._vocabulary.tokens
        return b"".join([names[i] if i in names else tokens[i] for i in ids])

    def _name(self, i: int) -> str:
        return f"token {quote(self._tokenizer.convert_ids_to_tokens(i))} ({i})"

    @cached_property
    def _names(self) -> dict[int, bytes]:
        """The names of the tokens that have no bytes in the vocabulary, and a place in texts."""
        added = self._tokenizer.backend_tokenizer.get_added_tokens_decoder()
        names = {i: token.content.encode() for i, token in added.items() if token.special}
        if ends := [i for i in self._vocabulary.eos if i not in added]:
            texts = Vocabulary.from_tokenizer(self._tokenizer, size=self._vocabulary.size, eos=()).tokens
            names |= {i: texts[i] for i in ends}
        return names

    @cached_property
    def _bare(self) -> Any:
        """The same tokenizer, which puts no blank before a text; None where there is no such thing."""
        from tokenizers import Tokenizer

        try:
            definition = json.loads(self._tokenizer.backend_tokenizer.to_str())
            definition |= {"truncation": None, "padding": None, "post_processor": None}
            for part in ("normalizer", "pre_tokenizer"):
                definition[part] = _drop_blank(definition.get(part))
            return Tokenizer.from_str(json.dumps(definition))
        except Exception:  # parts written in Python have no definition
            return None


def _drop_blank(part: Any) -> Any:
    """The definition of a normalizer or pre-tokenizer, without the blank that it puts before a text."""
    if not isinstance(part, dict) or part["type"] == "Prepend":
        return None
    changed = dict(part)
    for name in ("normalizers", "pretokenizers"):
        if name in part:
            changed[name] = [kept for each in part[name] if (kept := _drop_blank(each)) is not None]
    if part["type"] == "Metaspace":
        changed["prepend_scheme"] = "never"
    if "add_prefix_space" in part:
        changed["add_prefix_space"] = False
    return changed
