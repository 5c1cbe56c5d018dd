"""Contexts of served models: texts that grow by whole pieces, of which each is one sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, ModelError, ProgramError, quote
from feynkac.base.numbers import read_whole
from feynkac.base.unicode import check_unicode
from feynkac.models.served.sampling import Sampling
from feynkac.models.served.served_lm import refuse
from feynkac.programs.served.endings import read_ending
from feynkac.programs.served.upcoming import GivenText, ServedPiece

if TYPE_CHECKING:
    from feynkac.models.served.questions import Foreseen
    from feynkac.models.served.served_lm import ServedLM
    from feynkac.programs.runtime.execution import Execution

MAX_TOKENS = 512
"""Tokens of a piece for which no limit is given."""


After: TypeAlias = "tuple[str, bool, float | None, Foreseen | None]"
"""What is written, whether it has ended, the log-probability of the last piece, what is known of the next."""


class Written(NamedTuple):
    """What stands behind the prompt of a context."""

    text: str

    def read(self) -> str:
        """The text."""
        return self.text


class ServedContext:
    """A text that grows behind a prompt, of a model that is served (see `ServedLM.context`).

    `str(text)` is all behind the prompt; `text.ended` tells whether the model ended it; `text.log_drawn` is the
    log-probability of the piece that was drawn last, in nats, as the server reports it (mostly that of the model before
    temperature and top_p), None where it was not asked for. Each piece is drawn behind the text so far, however the
    server spells it; so the law of a text is the product of the laws of its pieces.
    """

    __slots__ = ("__weakref__", "_execution", "_written", "ended", "foreseen", "lm", "log_drawn", "prompt", "sampling")
    held = None
    """No model here must go on from it."""

    def __init__(self, execution: Execution, lm: ServedLM, prompt: str, sampling: Sampling) -> None:
        if execution.run.limits.max_tokens is not None:
            raise ArgumentError(
                "max_tokens of a program counts the tokens of its contexts, and those of a served model are not told; "
                "limit each piece instead: text.gen(max_tokens=...)"
            )
        self._execution = execution
        self.lm = lm
        self.prompt = prompt
        self.sampling = sampling
        self._written = ""
        self.ended = False
        self.log_drawn: float | None = None
        self.foreseen: Foreseen | None = None
        """What the last piece has seen of what follows it."""
        execution.add_context(self)

    @suggest_names()
    def gen(
        self,
        constraint: Any = None,
        *,
        until: str | Sequence[str] | None = None,
        unit: str | None = None,
        max_tokens: int | None = None,
        regex: Any = None,
        json_schema: Any = None,
        choices: Iterable[str] | None = None,
    ) -> ServedPiece:
        """A piece of text, to be sampled: `p.sample(text.gen(until="\\n\\n", max_tokens=200))` returns its text.

        It goes on to the end of the first of the strings in `until`, which is part of it; or it is a `unit`, a "word"
        with the white space before it and the punctuation on it, or a "sentence" or line, and what is drawn behind a
        unit begins as it must to end it; at most `max_tokens` tokens (512 where none are given). It ends, too, where
        the model ends the text. All particles that wait for pieces are served at once. Raises ModelError for
        constraints, for which a server gives no masks.
        """
        self.check_open()
        masks = {"constraint": constraint, "regex": regex, "json_schema": json_schema, "choices": choices}
        if asked := [name for name, value in masks.items() if value is not None]:
            refuse(f"gen({asked[0]}=...)", "draw a piece, and weigh it: p.condition(re.fullmatch(pattern, piece) "
                   "is not None), or run the program on an fk.CausalLM")  # fmt: skip
        ending = read_ending(until, unit)
        if ending is None and max_tokens is None:
            raise ArgumentError("gen() would go on to the end; bound it: gen(max_tokens=50), gen(until='.')")
        most = MAX_TOKENS if max_tokens is None else read_whole("max_tokens", max_tokens, 1)
        return ServedPiece(self, ending, most)

    def observe_text(self, text: str) -> None:
        """Observe `text`: the weight is its probability, by the log-probabilities of an echoed prompt.

        That of the model itself: raises ModelError for a context with sampling options, for a server that echoes
        nothing, and where a token reaches from the text before into this one.
        """
        if given := self._read_given(text, "observe_text"):
            self._execution.observe(GivenText(self, given), None)

    def log_prob(self, text: str) -> float:
        """The log-probability that the context goes on with `text`, in nats, without any effect; as `observe_text`."""
        given = self._read_given(text, "log_prob")
        return self._execution.query(GivenText(self, given), None) if given else 0.0

    def append(self, text: str) -> None:
        """Put a text behind the context, without any weight."""
        self.check_open()
        if _check_text(text, "append"):
            self.move(self._written + text)

    def fork(self) -> ServedContext:
        """A second context that stands where this one does; both go on by themselves. It costs nothing."""
        twin = ServedContext(self._execution, self.lm, self.prompt, self.sampling)
        twin.move(self._written, self.ended, self.log_drawn, self.foreseen)
        return twin

    @property
    def place(self) -> Written:
        """What stands behind the prompt now."""
        return Written(self._written)

    @property
    def key(self) -> tuple[Any, ...]:
        """What must be equal when the program is run again."""
        return self.prompt, self._written, self.sampling, self.foreseen

    def check_here(self) -> None:
        """Raises ProgramError outside of the particle that opened it: no record would tell of its moving on."""
        self._execution.check_here(self)

    def check_open(self) -> ServedContext:
        """This context, if something can be put behind it. Raises ProgramError if it has ended, or is another's."""
        self.check_here()
        if self.ended:
            raise ProgramError(
                f"this text has ended, after {quote(self._written[-60:])}; ask text.ended before going on"
            )
        return self

    def move(
        self, written: str, ended: bool = False, log_drawn: float | None = None, foreseen: Foreseen | None = None
    ) -> After:
        """Stand behind `written`; returns what a replay moves by."""
        self._written, self.ended, self.log_drawn, self.foreseen = written, ended, log_drawn, foreseen
        return written, ended, log_drawn, foreseen

    def next_token(self) -> NoReturn:
        """Refused: see `gen`."""
        refuse("next_token", "draw text.gen(max_tokens=1), or text.gen(unit='word')")

    def mask(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: see `gen`."""
        refuse("mask", "draw a piece, and weigh it: p.condition(...)")

    def draft(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: tokens cannot be verified without logits."""
        refuse("draft", "draw by text.gen, or run the program on an fk.CausalLM")

    @property
    def tokens(self) -> NoReturn:
        """Refused: see `str(text)`."""
        refuse("tokens", "str(text) is what is there so far")

    @property
    def eos(self) -> NoReturn:
        """Refused: see `ended`."""
        refuse("eos", "text.ended tells whether the model has ended the text")

    @property
    def bytes(self) -> bytes:
        """What the text stands for."""
        return self._written.encode()

    def text(self, start: int = 0) -> str:
        """The text behind its first `start` characters."""
        return self._written[start:]

    def _read_given(self, text: str, what: str) -> str:
        self.check_open()
        if not self.sampling.is_plain:
            raise ModelError(
                f"{what}: servers report the probabilities of the model itself, and this context was opened with "
                "sampling options; open a second one without any, append(str(text)) to it, and ask that"
            )
        if self.foreseen is not None:
            raise ModelError(
                f"{what}: the {self.foreseen.ending.name} before it ended by what followed, and a server does not tell "
                "how likely that was; draw that piece by until= or max_tokens=, or append something first"
            )
        if not self.prompt + self._written:
            raise ModelError(f"{what}: a server tells no probability of what stands behind nothing; give a prompt")
        return _check_text(text, what)

    def __str__(self) -> str:
        return self._written

    def __len__(self) -> int:
        return refuse("len(text)", "which counts tokens; len(str(text)) counts characters")

    def __bool__(self) -> bool:
        return True

    def __copy__(self) -> ServedContext:
        return self.fork()

    def __deepcopy__(self, memo: Any) -> ServedContext:
        return self.fork()

    def __repr__(self) -> str:
        return f"<context {self._written[-60:]!r}{' (ended)' if self.ended else ''}>"


def _check_text(text: Any, what: str) -> str:
    if not isinstance(text, str):
        raise ArgumentError(f"{what}({quote(text)}): give a string")
    check_unicode(text, what)
    return text
