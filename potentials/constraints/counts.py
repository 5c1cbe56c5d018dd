"""Constraints that look at tokens one by one: `tokens` by what they are, `length` by how many there are."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, ConstraintError, quote, shorten
from feynkac.base.lists import as_list
from feynkac.base.masks import States, TokenAutomaton, TokenMask, pack
from feynkac.base.unicode import check_unicode
from feynkac.base.words import is_word
from feynkac.potentials.constraints.lengths import build_character_count, build_sentence_count, build_word_count
from feynkac.potentials.constraints.texts import TextConstraint
from feynkac.potentials.constraints.tokenwise import TokenFactor

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary

TokenNames: TypeAlias = int | str | Iterable[int | str | np.integer]
Unit: TypeAlias = Literal[
    "token", "char", "character", "word", "sentence", "tokens", "chars", "characters", "words", "sentences"
]
_MAX_LENGTH = 100_000


class CountAutomaton:
    """A `TokenAutomaton` that counts: `allowed` tokens may come while there are fewer than `high`.

    A state is the number of tokens so far, capped at `low` where there is no `high`.
    """

    start = 0

    def __init__(self, allowed: NDArray[np.bool_], ends: NDArray[np.bool_], low: int, high: int | None) -> None:
        self._allowed = allowed
        self._low = low
        self._high = high
        nothing = np.zeros_like(allowed)
        self._rows = pack(np.array([nothing, allowed, ends, allowed | ends]))

    def masks(self, states: States) -> TokenMask:
        """(U, ceil(V / 32)) allowed next tokens, the end-of-sequence tokens among them where the state accepts."""
        more = (states >= 0) & (True if self._high is None else states < self._high)
        return self._rows[more + 2 * self.accepts(states)]

    def masks_within(self, states: States, left: NDArray[np.int64]) -> TokenMask:
        """(U, ceil(V / 32)) as `masks`, and no token where `left` (U,) are too few to come to `low`."""
        masks = self.masks(states)
        short = (states >= 0) & (np.maximum(self._low - states, 1) > left)
        masks[short] &= self._rows[2]
        return masks

    def advance(self, states: States, tokens: NDArray[np.int64]) -> States:
        """(N,) states after one more token each; -1 where the token is not allowed."""
        cap = self._low if self._high is None else self._high + 1
        after = np.minimum(states + 1, cap)
        inside = (tokens >= 0) & (tokens < len(self._allowed))
        fits = inside & self._allowed[np.where(inside, tokens, 0)] & (states >= 0)
        return np.where(fits if self._high is None else fits & (after <= self._high), after, -1)

    def accepts(self, states: States) -> NDArray[np.bool_]:
        """(N,) whether there are enough tokens; never too many, since those states are dead."""
        return states >= self._low


class TokenChoice(TokenFactor):
    """See `tokens`."""

    def __init__(self, ban: tuple[int | str, ...], allow: tuple[int | str, ...] | None) -> None:
        shown = [f"ban={quote(list(ban))}"] if ban else []
        shown += [] if allow is None else [f"allow={quote(list(allow))}"]
        super().__init__(shorten(f"tokens({', '.join(shown)})"))
        self._ban, self._allow = ban, allow
        self.define(ban, allow)

    @property
    def outline(self) -> TokenChoice:
        """Itself: it has few states."""
        return self

    def compile(self, vocabulary: Vocabulary) -> TokenAutomaton:
        allowed = vocabulary.with_text.copy()
        if self._allow is not None:
            chosen = np.zeros_like(allowed)
            for each in self._allow:
                chosen[self._find_tokens(each, vocabulary, whole=True)] = True
            allowed &= chosen
        for each in self._ban:
            allowed[self._find_tokens(each, vocabulary, whole=False)] = False
        return CountAutomaton(allowed, vocabulary.ends, 0, None)

    def _find_tokens(self, each: int | str, vocabulary: Vocabulary, whole: bool) -> list[int]:
        if isinstance(each, int):
            if not 0 <= each < vocabulary.size:
                raise ConstraintError(f"{self.name}: there is no token {each} in a vocabulary of {vocabulary.size}")
            if each in vocabulary.eos:
                raise ConstraintError(
                    f"{self.name}: token {each} ends a text; when a text may end is for other constraints to say, "
                    "such as length(min=...)"
                )
            return [each]  # where it is a control token: those are never allowed, banned or not
        text = each.encode("utf-8", "surrogatepass")
        found = [v for v, token in enumerate(vocabulary.tokens) if (text == token if whole else text in token)]
        if found:
            return found
        if not whole:
            raise ArgumentError(
                f"{self.name}: no single token contains {quote(each)}, so that banning it bans nothing; it can still "
                f"be spelt by several tokens: to keep it out of the text use phrases(ban=[{quote(each)}])"
            )
        raise ConstraintError(
            f"{self.name}: no single token has the text {quote(each)}, it takes several; "
            "allow those one by one, or constrain the text with regex(...)"
        )


class TokenLength(TokenFactor):
    """See `length`."""

    def __init__(self, low: int, high: int | None, name: str) -> None:
        super().__init__(name)
        self._low, self._high = low, high

    @property
    def outline(self) -> TokenLength:
        """Itself: it has few states."""
        return self

    def compile(self, vocabulary: Vocabulary) -> TokenAutomaton:
        return CountAutomaton(vocabulary.with_text, vocabulary.ends, self._low, self._high)


@suggest_names()
def tokens(ban: TokenNames = (), allow: TokenNames | None = None) -> TokenChoice:
    """The texts made of some tokens only: those named in `allow` (all, by default) without those in `ban`.

    An int is a token id. A string in `ban` names every token whose text contains it: ban=["e"] leaves no token with
    an e. A string in `allow` names the tokens with exactly that text, leading space included.

    This is about tokens, not about text: a banned string of several characters can still be spelled by smaller
    tokens. To forbid it in the text use phrases(ban=[...]). Raises ArgumentError for names of another type and, when
    it is compiled, for a text to ban that no token contains; ConstraintError, when it is compiled, for other ids and
    texts that the vocabulary does not have.
    """
    banned = _list_names("ban", ban)
    allowed = None if allow is None else _list_names("allow", allow)
    if not banned and allowed is None:
        raise ArgumentError("tokens(): name the tokens to ban=... or the only ones to allow=...")
    return TokenChoice(banned, allowed)


@suggest_names()
def length(min: int = 0, max: int | None = None, unit: Unit = "token") -> TokenLength | TextConstraint:
    """The texts of `min` to `max` tokens, characters, words or sentences, both included.

    Tokens are counted without the end-of-sequence token, characters as Unicode code points; words are what
    `str.split` makes of the text. A sentence ends where rewards with every="sentence" look: at white space behind
    `.!?…` and the quotes and brackets that close there, behind `。！？`, and at the end of a line that is not blank;
    what follows the last end is one more, unless it is blank. So "e.g. this" counts as two. Texts of bytes that are no
    UTF-8 have neither characters nor words nor sentences, and are not accepted. A `unit` may stand in the plural.

    Raises ArgumentError for limits that are no whole numbers with 0 <= min <= max, or another unit.
    """
    for limit in (min, 0 if max is None else max):
        if isinstance(limit, bool) or not isinstance(limit, (int, np.integer)) or not 0 <= limit <= _MAX_LENGTH:
            raise ArgumentError(f"length: the limits are whole numbers from 0 to {_MAX_LENGTH:,}, not {quote(limit)}")
    if max is not None and min > max:
        raise ArgumentError(f"length(min={min}, max={max}): no text is that long and that short; exchange them")
    name = f"length(min={min}, max={max}, unit={quote(unit)})"
    one = unit.removesuffix("s") if isinstance(unit, str) else unit
    if is_word(one, ("token",)):
        return TokenLength(int(min), max if max is None else int(max), name)
    if not is_word(one, _BUILD):
        raise ArgumentError(f"length(unit={quote(unit)}): choose one of 'token', 'character', 'word', 'sentence'")
    return TextConstraint(name, partial(_BUILD[one], int(min), max if max is None else int(max)))


_BUILD = {
    "char": build_character_count,
    "character": build_character_count,
    "word": build_word_count,
    "sentence": build_sentence_count,
}


def _list_names(what: str, names: TokenNames) -> tuple[int | str, ...]:
    listed = [names] if isinstance(names, (int, str, np.integer)) else as_list(names)
    if listed is None:
        raise ArgumentError(f"tokens({what}={quote(names)}): give a list of token ids and texts")
    for name in listed:
        if isinstance(name, bool) or not isinstance(name, (int, str, np.integer)) or name == "":
            raise ArgumentError(f"tokens({what}=...): {quote(name)} is neither a token id nor a text")
        if isinstance(name, str):
            check_unicode(name, f"tokens({what}=...): {quote(name)}")
    return tuple(int(name) if isinstance(name, np.integer) else name for name in listed)
