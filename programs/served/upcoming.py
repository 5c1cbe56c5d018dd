"""What a program samples and observes of a served model, as distributions: a piece of text, a given text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from feynkac.base.errors import ArgumentError, ProgramError, quote
from feynkac.models.served.questions import Draw, Ending, Piece, Score
from feynkac.models.served.served_lm import refuse
from feynkac.programs.distribution import Distribution
from feynkac.programs.runtime.serving import Inquiry

if TYPE_CHECKING:
    from feynkac.programs.runtime.record import Record
    from feynkac.programs.served.context import After, ServedContext


class _OfContext(Distribution[str]):
    """A distribution that a server knows. It must be used before the context moves on."""

    __slots__ = ("context",)
    context: ServedContext
    in_context = True

    def check_here(self) -> None:
        """Raises ProgramError outside of the particle that has opened the context."""
        self.context.check_here()

    def check_current(self) -> ServedContext:
        """The context. Raises ProgramError if it has moved on since."""
        if self.key[1] != self.context.key or self.context.ended:
            raise ProgramError(f"{quote(self)}: the context has moved on; call gen() anew for each piece")
        return self.context

    def follow(self, after: After, value: Any) -> Any:
        """Move to where a replayed value leads."""
        self.context.move(*after)
        return value


class ServedPiece(_OfContext):
    """The next piece of a context (see `ServedContext.gen`)."""

    __slots__ = ("ending", "max_tokens")

    def __init__(self, context: ServedContext, ending: Ending | None, max_tokens: int) -> None:
        self.context, self.ending, self.max_tokens = context, ending, max_tokens
        self.key = ("piece", context.key, ending and ending.name, max_tokens)

    def ask(self, value: Any = None) -> Inquiry:
        """What to ask the server."""
        context = self.check_current()
        if value is not None:
            return Inquiry(NO_ONE, None)  # a reference path brings it along
        text = context.prompt + str(context)
        return Inquiry(context.lm.source, Draw(text, context.sampling, self.ending, self.max_tokens, context.foreseen))

    def settle(self, u: Any, pin: Record | None, answer: Piece | None) -> tuple[str, float | None, Any, float]:
        if answer is None:
            assert pin is not None
            return pin.value, None, self.context.move(*pin.after), 0.0
        written = str(self.context) + answer.text
        return answer.text, None, self.context.move(written, answer.ended, answer.log_prob, answer.foreseen), 0.0

    def convert(self, value: Any) -> Any:
        raise ArgumentError("a piece takes no proposal and is not observed; text.observe_text('...') observes a text")

    def log_prob(self, value: Any) -> float:
        refuse("the log-probability of a piece", "text.log_prob('...') asks for that of a text")

    def __repr__(self) -> str:
        what = self.ending.name if self.ending is not None else "text"
        return f"gen({what}, max_tokens={self.max_tokens}) of {self.context!r}"


class GivenText(_OfContext):
    """A given text as the next one of a context."""

    __slots__ = ("text",)

    def __init__(self, context: ServedContext, text: str) -> None:
        self.context, self.text = context, text
        self.key = ("text", context.key, text)

    def ask(self, value: Any = None) -> Inquiry:
        """What to ask the server."""
        context = self.check_current()
        return Inquiry(context.lm.source, Score(context.prompt + str(context), self.text))

    def score(self, value: Any, answer: float) -> float:
        return answer

    def move(self, value: Any) -> Any:
        """Put the text behind the context; returns where it leads."""
        return self.context.move(str(self.context) + self.text)

    def __repr__(self) -> str:
        return f"text {self.text!r} of {self.context!r}"


class _NoOne:
    """Answers what need not be asked."""

    def answer(self, questions: Sequence[Any], uniforms: Sequence[Any], /) -> Sequence[Any]:
        """None to each."""
        return [None] * len(questions)


NO_ONE = _NoOne()
