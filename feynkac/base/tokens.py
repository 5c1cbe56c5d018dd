"""Tokens as values of a program, and sets of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list
from feynkac.base.masks import TokenMask, pack, unpack
from feynkac.base.per_vocabulary import PerVocabulary

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary


class Token(str):
    """A token that reads as its text: `"e" in token`, `token == " the"`; an end of sequence reads as ""."""

    __slots__ = ("bytes", "id", "is_eos", "vocabulary")
    id: int
    bytes: bytes
    """What it stands for, exactly; its text has U+FFFD for bytes that are no whole character."""
    is_eos: bool
    vocabulary: Vocabulary

    @classmethod
    def of(cls, vocabulary: Vocabulary, id: int) -> Token:
        """The token number `id`."""
        data = vocabulary.tokens[id]
        token = cls(data.decode("utf-8", "replace"))
        token.id, token.bytes, token.vocabulary, token.is_eos = id, data, vocabulary, id in vocabulary.eos
        return token

    def __deepcopy__(self, memo: Any) -> Token:
        return self


class TokenSet:
    """A set of tokens of one vocabulary; immutable, with `a & b`, `a | b`, `~a` and `token in a`."""

    __slots__ = ("_hash", "packed", "size")

    def __init__(self, packed: TokenMask, size: int) -> None:
        self.packed, self.size = packed, size
        self._hash: int | None = None

    @classmethod
    def where(cls, vocabulary: Vocabulary, what: Any) -> TokenSet:
        """The tokens that `what` means: ids or texts, a function of a token's text, (V,) booleans, or a TokenSet.

        A function is asked once for each token and vocabulary, and remembered as long as it lives: define it
        outside of the program. Tokens without text, as the ends of sequence are, are in only by their ids.
        """
        if isinstance(what, TokenSet):
            return what
        if isinstance(what, np.ndarray) and what.dtype == np.bool_:
            if what.shape != (vocabulary.size,):
                raise ArgumentError(f"a mask of shape {what.shape} for a vocabulary of {vocabulary.size} tokens")
            return cls(pack(what), vocabulary.size)
        if callable(what):
            return _ask_function(vocabulary, what)
        if (listed := as_list(what)) is None:
            raise ArgumentError(f"{quote(what)} is no set of tokens; give ids, texts, or a function of a token's text")
        return cls(pack(_mark(vocabulary, listed)), vocabulary.size)

    def __and__(self, other: TokenSet) -> TokenSet:
        return TokenSet(self.packed & other.packed, self.size)

    def __or__(self, other: TokenSet) -> TokenSet:
        return TokenSet(self.packed | other.packed, self.size)

    def __invert__(self) -> TokenSet:
        return TokenSet(~self.packed, self.size)

    def __contains__(self, token: int) -> bool:
        id = token.id if isinstance(token, Token) else token
        return bool(self.packed[id >> 5] >> np.uint32(id & 31) & 1)

    def first(self) -> int | None:
        """The lowest id in the set; None if it is empty."""
        found = np.flatnonzero(unpack(self.packed, self.size))
        return int(found[0]) if len(found) else None

    def __len__(self) -> int:
        return int(unpack(self.packed, self.size).sum())

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, TokenSet) and np.array_equal(self.packed, other.packed))

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self.packed.tobytes())
        return self._hash

    def __repr__(self) -> str:
        return f"TokenSet({len(self)} of {self.size} tokens)"


Tokens: TypeAlias = TokenSet | Iterable[int] | Iterable[str] | Callable[[str], bool] | NDArray[np.bool_]

_asked: PerVocabulary[Answered] = PerVocabulary()
_texts: PerVocabulary[dict[str, list[int]]] = PerVocabulary()


def index_texts(vocabulary: Vocabulary) -> dict[str, list[int]]:
    """The ids of each text that is a token, more than one where tokens are duplicate."""
    return _texts.find(vocabulary, _build_index)


def _build_index(vocabulary: Vocabulary) -> dict[str, list[int]]:
    table: dict[str, list[int]] = {}
    for i, data in enumerate(vocabulary.tokens):
        if data:
            table.setdefault(data.decode("utf-8", "replace"), []).append(i)
    return table


class Answered:
    """The tokens of which functions are true, as long as the functions live; nothing of what has no weak reference."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Callable[..., Any], TokenSet] = WeakKeyDictionary()

    def find(self, f: Callable[..., Any]) -> TokenSet | None:
        """What was answered before; None where nothing was."""
        try:
            return self._known.get(f)
        except TypeError:  # methods of built-in types, such as str.isalpha, and what has no hash
            return None

    def keep(self, f: Callable[..., Any], answer: TokenSet) -> None:
        """Remember an answer where that is possible."""
        with suppress(TypeError):
            self._known[f] = answer


def _ask_function(vocabulary: Vocabulary, f: Callable[..., Any]) -> TokenSet:
    answered = _asked.find(vocabulary, lambda _: Answered())
    if (known := answered.find(f)) is not None:
        return known
    allowed = np.zeros(vocabulary.size, np.bool_)
    for text, ids in index_texts(vocabulary).items():
        allowed[ids] = bool(f(text))
    found = TokenSet(pack(allowed), vocabulary.size)
    answered.keep(f, found)
    return found


def _mark(vocabulary: Vocabulary, items: list[Any]) -> NDArray[np.bool_]:
    allowed = np.zeros(vocabulary.size, np.bool_)
    for item in items:
        if isinstance(item, Token):
            allowed[item.id] = True
        elif isinstance(item, str):
            if item not in index_texts(vocabulary):
                raise ArgumentError(f"no token of this model reads {quote(item)}; give texts that are single tokens")
            allowed[index_texts(vocabulary)[item]] = True
        elif isinstance(item, int | np.integer) and not isinstance(item, bool) and 0 <= item < vocabulary.size:
            allowed[int(item)] = True
        else:
            raise ArgumentError(f"{quote(item)} is no token of a vocabulary of {vocabulary.size}")
    return allowed
