"""Pieces on their way: a server draws so many tokens at a time, and what is beyond the end of a piece is cut off.

The law of a text is left as it is by that. Where a string ends a piece, whether it ends at a place depends on nothing
behind it. A word ends because white space follows: what comes next is drawn until it begins so, too (rejection), which
gives p(piece, white space) p(what comes | piece, white space). No request tells half of a character: one that a request
has begun is drawn anew, so that characters of several tokens are too rare just there, where pieces take many requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from feynkac.base.errors import ModelError, quote
from feynkac.models.served.questions import Draw, Foreseen, Piece
from feynkac.models.served.replies import Choice
from feynkac.models.served.sampling import Sampling

_TRIES = 200
"""Draws of what comes behind a word or a sentence, of which one must begin as was seen."""
_SEED_BITS = 31
"""Every server takes seeds of so many."""
_INCOMPLETE = "\ufffd"
"""What servers write for the bytes of a character that the last token has begun."""


class Draft:
    """A piece that is being drawn."""

    def __init__(self, question: Draw, u: Any, *, stops: bool) -> None:
        """`stops`: whether the server tells at which string it has stopped, so that it can be left to it."""
        ending = question.ending
        self.question = question
        self.piece: Piece | None = None
        """None until it is over."""
        self._stops = ending.stops if stops and ending is not None else ()
        self._chunk = question.max_tokens if ending is None or self._stops else ending.chunk
        self._u, self._rounds, self._tries = u, 0, 0
        self._begin()

    def _begin(self) -> None:
        self._text, self._left = "", self.question.max_tokens
        self._log_prob: float | None = 0.0
        self._found: Piece | None = None
        """The piece, where it is still to be seen whether it follows what was foreseen."""
        self._beyond = ""
        """What was drawn behind it to see that."""

    @property
    def request(self) -> tuple[str, Sampling, tuple[str, ...], int]:
        """What to ask for: more of which text, under which law, up to which strings, how many tokens at most."""
        if self._found is not None:
            assert self.question.foreseen is not None
            return self.question.text + self._beyond, self.question.sampling, (), self.question.foreseen.ending.chunk
        return self.question.text + self._text, self.question.sampling, self._stops, min(self._left, self._chunk)

    def make_seed(self) -> int:
        """A seed from the particle's uniform, another one for each request. Raises NotImplementedError without one."""
        if not isinstance(self._u, float):
            raise NotImplementedError("the draws of a server cannot be enumerated; draw by a source of your own")
        key = np.random.SeedSequence([int(self._u * 2**53), self._rounds])
        return int(key.generate_state(1)[0]) >> (32 - _SEED_BITS)

    def take(self, choice: Choice) -> None:
        """Go on by what the server has drawn."""
        if self._found is not None:
            self._beyond += choice.text.rstrip(_INCOMPLETE)
            self._rounds += 1
            return self._settle(self._found, choice.ended)
        whole = self._text + choice.text
        seen = whole if choice.ended or choice.stop is not None else whole.rstrip(_INCOMPLETE)
        self._beyond = seen + (choice.stop or "")
        ending = self.question.ending
        cut = None if ending is None else ending.find(seen)
        if cut is not None:
            self._finish(whole[:cut], choice, ended=False, kept=cut - len(self._text))
        elif choice.ended or choice.stop is not None:
            self._finish(whole + (choice.stop or ""), choice, ended=choice.ended)
        else:
            self._go_on(choice)

    def _go_on(self, choice: Choice) -> None:
        kept = choice.text.rstrip(_INCOMPLETE)  # its character is drawn anew, as is all that is cut off
        self._left -= min(self._left, self._chunk)
        if not self._left:
            return self._finish(self._text + kept, choice, ended=False, kept=len(kept))
        self._text += kept
        self._log_prob = _add(self._log_prob, choice, len(kept))
        self._rounds += 1

    def _finish(self, text: str, choice: Choice, *, ended: bool, kept: int | None = None) -> None:
        ending, foreseen = self.question.ending, None
        if kept is not None and ending is not None and ending.foresees and ending.find(self._beyond) == len(text):
            foreseen = Foreseen(ending, text)
        self._rounds += 1
        self._settle(Piece(text, ended, _add(self._log_prob, choice, kept), foreseen), choice.ended)

    def _settle(self, piece: Piece, ended: bool) -> None:
        """Take a piece that follows what was foreseen, begin anew where it does not, draw on where that is not seen."""
        given = self.question.foreseen
        follows = True if given is None else given.check(self._beyond)
        if given is None or follows:
            self.piece = piece if given is None or piece.foreseen else piece._replace(foreseen=given.follow(piece.text))
        elif follows is None and not ended:
            self._found = piece
        else:
            self._tries += 1
            if self._tries == (1 if self.question.sampling.is_certain else _TRIES):
                raise ModelError(
                    f"a {given.ending.name} ended at {quote(given.text[-40:])} by what followed, and behind it the "
                    f"server never goes on like that ({self._tries} draws); draw pieces by until= or max_tokens="
                )
            self._begin()


def _add(log_prob: float | None, choice: Choice, kept: int | None) -> float | None:
    """`log_prob` and that of the tokens which reach into the first `kept` characters of a choice; None for all."""
    if log_prob is None or choice.spelling is None:
        return None
    starts = np.cumsum([0, *(len(token) for token, _ in choice.spelling)])[:-1]
    return log_prob + sum(
        nats for (_, nats), start in zip(choice.spelling, starts, strict=True) if kept is None or start < kept
    )


def find_first(stops: Sequence[str], text: str) -> int | None:
    """How long `text` is with the first of some strings to be complete in it; None if none is."""
    return min((at + len(stop) for stop in stops if (at := text.find(stop)) >= 0), default=None)
