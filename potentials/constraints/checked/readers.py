"""What a state of a checked text is, and how the user's functions tell of the next one."""

from __future__ import annotations

import codecs
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from feynkac.base.errors import PotentialError, quote
from feynkac.potentials.constraints.checked.asking import Question, Show


class Reader(Protocol):
    """How texts are read: a value stands for all that is known of a text."""

    start: Any
    """The value of the empty text."""

    def key(self, value: Any) -> Hashable | None:
        """Equal for values that are the same; None for one that is like no other."""
        ...

    def extend(self, values: Sequence[Any], tokens: Sequence[bytes], show: Show) -> list[Any]:
        """The value after one more token for each of `values`; `REJECTED` where it may not come."""
        ...

    def restore(self, value: Any, token: bytes, show: Show) -> Any:
        """The same for a token that was accepted before."""
        ...

    def ends(self, values: Sequence[Any], show: Show) -> list[bool]:
        """Whether a text may end with each of `values`."""
        ...


REJECTED = object()


class TextReader:
    """A value is the text so far, as bytes; `accepts` is asked about it whenever it has grown by a character."""

    start = b""

    def __init__(self, accepts: Question, completes: Question | None) -> None:
        self._accepts, self._completes = accepts, completes

    def key(self, value: bytes) -> Hashable | None:
        return value

    def extend(self, values: Sequence[bytes], tokens: Sequence[bytes], show: Show) -> list[Any]:
        longer = [value + token for value, token in zip(values, tokens, strict=True)]
        texts = [_decode(value) for value in longer]
        new = [i for i, value in enumerate(values) if len(texts[i]) != len(_decode(value))]
        accepted = self._accepts.ask_bools([(texts[i],) for i in new], lambda k: texts[new[k]])
        rejected = {i for i, fine in zip(new, accepted, strict=True) if not fine}
        return [REJECTED if i in rejected else value for i, value in enumerate(longer)]

    def restore(self, value: bytes, token: bytes, show: Show) -> bytes:
        return value + token

    def ends(self, values: Sequence[bytes], show: Show) -> list[bool]:
        if self._completes is None:
            return [True] * len(values)
        texts = [_decode(value) for value in values]
        return self._completes.ask_bools([(text,) for text in texts], texts.__getitem__)


class StepReader:
    """A value is a state of the user's, and the bytes of a character that is not yet whole."""

    def __init__(self, start: Any, advance: Question, completes: Question | None) -> None:
        self.start = (start, b"")
        self._advance, self._completes = advance, completes

    def key(self, value: Any) -> Hashable | None:
        state, pending = value
        return (type(state), state, pending) if _is_hashable(state) else None

    def extend(self, values: Sequence[Any], tokens: Sequence[bytes], show: Show) -> list[Any]:
        after = list[Any]()
        pieces, asked = list[str](), list[int]()
        for i, ((state, pending), token) in enumerate(zip(values, tokens, strict=True)):
            piece, used = codecs.utf_8_decode(pending + token, "replace", False)
            after.append((state, (pending + token)[used:]))
            if piece:
                asked.append(i)
                pieces.append(piece)
        given = [(values[i][0], piece) for i, piece in zip(asked, pieces, strict=True)]
        for k, state in enumerate(self._advance.ask(given, lambda k: show(asked[k]))):
            i = asked[k]
            if state is values[i][0] and not _is_hashable(state):
                raise PotentialError(
                    f"'{self._advance.name}', asked about the text {quote(show(i))}, returned the very state that it "
                    f"was given, a {type(state).__name__}: other texts go on from that one. "
                    "Change a copy, and return it"
                )
            after[i] = REJECTED if state is None else (state, after[i][1])
        return after

    def restore(self, value: Any, token: bytes, show: Show) -> Any:
        [after] = self.extend([value], [token], show)
        if after is REJECTED:
            raise PotentialError(
                f"'{self._advance.name}' rejects the text {quote(show(0))}, which it accepted before; the same state "
                "and text must always have the same answer"
            )
        return after

    def ends(self, values: Sequence[Any], show: Show) -> list[bool]:
        if self._completes is None:
            return [True] * len(values)
        return self._completes.ask_bools([(state,) for state, _ in values], show)


def _decode(value: bytes) -> str:
    """The text of some bytes, as `Vocabulary.text` has it: an unfinished character at the end is left out."""
    return codecs.utf_8_decode(value, "replace", False)[0]


def _is_hashable(state: Any) -> bool:
    try:
        hash(state)
    except TypeError:
        return False
    return True
