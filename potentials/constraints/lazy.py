"""Constraints that are asked about single tokens, and only about those that are drawn: `lazy`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, ConstraintError
from feynkac.base.numbers import read_flag, read_seconds, read_whole
from feynkac.potentials.constraints.checked.asking import Question, check_function, name_function
from feynkac.potentials.constraints.checked.readers import Reader, StepReader, TextReader
from feynkac.potentials.constraints.tokenwise import TokenFactor, read_name

if TYPE_CHECKING:
    from feynkac.base.masks import TokenAutomaton
    from feynkac.base.vocabulary import Vocabulary


class Lazy(TokenFactor):
    """See `lazy`."""

    def __init__(self, reader: Reader, name: str, draws: int) -> None:
        super().__init__(name)
        self._reader, self._draws = reader, draws

    def compile(self, vocabulary: Vocabulary) -> TokenAutomaton:
        from feynkac.potentials.constraints.checked.automaton import CheckedAutomaton

        return CheckedAutomaton(self._reader, vocabulary, self._draws)


class _NoStart:
    """Stands for a start that was not given, as a state may be None."""

    def __repr__(self) -> str:
        return "(none)"


_NO_START: Any = _NoStart()


@suggest_names()
def lazy(
    f: Callable[..., Any],
    accepts: Callable[..., Any] | None = None,
    *,
    start: Any = _NO_START,
    draws: int = 4,
    batch: bool = False,
    name: str | None = None,
    timeout: float | None = 10.0,
) -> Lazy:
    """The texts that `f` accepts all the way: `f(text)` says whether the text so far can still become right.

        fk.lazy(can_go_on)                                   # also says True of whole texts that are right
        fk.lazy(can_go_on, accepts=is_right)                 # a text ends only where is_right(text) is True
        fk.lazy(advance, start=parser, accepts=is_whole)     # a parser that goes along with the text

    Use it for what can be checked and not masked: a parser, a compiler, any Python function. Language models then draw
    a token, ask about it alone, and draw again where it is rejected; a few further draws give an unbiased estimate of
    the probability that `f` leaves, which goes into the weight (adaptive weighted rejection sampling; Lipkin et al.
    2025, arXiv 2504.05410). However unlikely a right token is, it is found. Each state and token is asked about once,
    whoever draws it. What can only be told of whole texts belongs into `constraint(f)`; what a grammar, a pattern or a
    schema says is told faster, and with less variance, by their masks.

    You promise that once `f` is False of a text it is so of every longer one, that `f("")` is True, and that the answer
    depends on the text alone. With a `start`, `f(state, text)` gives the state after some more characters, or None
    where they may not come, and `accepts(state)` says whether a text may end there: nothing is then read twice, and
    equal states that are hashable share what is known of them. A state must not be changed, but replaced.

    `draws`: for each token so many draws must be accepted, the first of which it is, from 2. More have less variance,
    and ask more: at two draws a weight has three times the variance of four, or more, for six tenths of the calls.
    `batch`: `f` and `accepts` take a list of texts, and return as many bools. `name`: what errors and results call it.
    `timeout`: seconds that a call may take, which is then made on another thread than yours; None makes it on yours,
    as a connection to a database may need it, and waits for ever.

    Raises ArgumentError for functions that cannot be called so, ConstraintError where `f("")` is False; PotentialError,
    when it is used, with the text, where a function raises, takes too long, or returns no bool.
    """
    parser, batch = start is not _NO_START, read_flag("lazy: batch", batch)
    given = ("state", "text") if parser else ("texts",) if batch else ("text",)
    what = f"lazy({name_function(f)})" if callable(f) else "lazy(f): f"
    check_function(f, what, given)
    if accepts is not None:
        check_function(accepts, f"{what}: accepts", given[:1])
    if batch and parser:
        raise ArgumentError(f"{what}: batch=True is for functions of texts; a parser with a start takes one at a time")
    timeout = read_seconds(f"{what}: timeout", timeout)
    draws = read_whole(f"{what}: draws", draws, 2, ", as one draw alone tells nothing of the weight")
    called = read_name(name, "lazy") or what
    first = Question(f, called, batch, timeout)
    last = None if accepts is None else Question(accepts, f"{called}: accepts", batch, timeout)
    if parser:
        return Lazy(StepReader(start, first, last), called, draws)
    if not first.ask_bools([("",)], lambda _: "")[0]:
        raise ConstraintError(
            f"{called} rejects the empty text, with which every text begins: it must be True of all that can still "
            "become right. What is told of whole texts only belongs into constraint(f)"
        )
    return Lazy(TextReader(first, last), called, draws)
