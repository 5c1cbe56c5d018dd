"""What can be asked of a served model: a piece of text to be drawn, or the probability of a given one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from feynkac.models.served.sampling import Sampling


@dataclass(frozen=True)
class Ending:
    """Where a piece is over before its last token, such as behind a sentence. Equal by name."""

    name: str
    find: Callable[[str], int | None] = field(compare=False)
    """How many characters of a text are the piece; None as long as its end is not there."""
    stops: tuple[str, ...] = ()
    """The strings that end it, if it is such strings: a server may stop there by itself."""
    chunk: int = 32
    """Tokens to ask for at a time where it does not; what is drawn beyond the end is thrown away."""


class Draw(NamedTuple):
    """A piece to be drawn behind a text."""

    text: str
    sampling: Sampling
    ending: Ending | None
    """None: it is over at the last token, or where the model ends."""
    max_tokens: int


class Score(NamedTuple):
    """The log-probability that the model goes on with `text` behind `before`."""

    before: str
    text: str


Question: TypeAlias = Draw | Score


class Piece(NamedTuple):
    """A piece that was drawn."""

    text: str
    ended: bool
    """Whether the model ended the text behind it."""
    log_prob: float | None
    """Of its tokens, in nats, as the server reports it; None where it does not."""
