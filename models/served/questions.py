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
    foresees: bool = False
    """Whether it is told by what follows, as the end of a word by white space: then what is drawn next must follow."""


class Foreseen(NamedTuple):
    """What a piece that is over has seen of what follows it: that it ended there."""

    ending: Ending
    text: str
    """The piece."""
    since: str = ""
    """What was drawn behind it and kept, as long as that does not show where it ended."""

    def check(self, text: str) -> bool | None:
        """Whether the piece ends where it did if `text` comes next; None where `text` does not tell yet."""
        behind = self.since + text
        found = self.ending.find(self.text + behind)
        return None if found is None and not behind.strip() else found == len(self.text)

    def follow(self, text: str) -> Foreseen | None:
        """What is still to be seen behind `text`; None where it tells."""
        return self._replace(since=self.since + text) if self.check(text) is None else None


class Draw(NamedTuple):
    """A piece to be drawn behind a text."""

    text: str
    sampling: Sampling
    ending: Ending | None
    """None: it is over at the last token, or where the model ends."""
    max_tokens: int
    foreseen: Foreseen | None = None
    """What is known of what comes: the law is that given it."""


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
    foreseen: Foreseen | None = None
    """What is known of what follows it."""
