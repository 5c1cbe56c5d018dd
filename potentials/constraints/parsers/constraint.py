"""`parser`: a constraint by any incremental parser written in Python."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, quote, shorten
from feynkac.base.masks import TokenAutomaton
from feynkac.base.numbers import read_seconds
from feynkac.potentials.constraints.parsers.automaton import ParserAutomaton
from feynkac.potentials.constraints.parsers.calling import Caller
from feynkac.potentials.constraints.tokenwise import TokenFactor, read_name

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary


@runtime_checkable
class Advances(Protocol):
    """An object that parses: `advance(state, byte)`, or, where it is itself the state, `advance(byte)`."""

    advance: Callable[..., Any]


@runtime_checkable
class Starts(Protocol):
    """A parser that brings its first state. Without it: that is None."""

    start: Any


@runtime_checkable
class Accepts(Protocol):
    """A parser that knows where a text may end. Without it: a text may end wherever it has a state."""

    accepts: Callable[..., bool]


class Parser(TokenFactor):
    """See `parser`."""

    def __init__(self, advance: Any, start: Any, accepts: Any, timeout: float | None, name: str) -> None:
        super().__init__(name)
        self._given = (advance, accepts, timeout, name)
        self._start = start
        self._caller = Caller(*self._given)

    @property
    def calls(self) -> int:
        """How often the functions of the parser have been called so far."""
        return self._caller.calls

    def compile(self, vocabulary: Vocabulary) -> TokenAutomaton:
        from feynkac.potentials.constraints.automata.trie import find_trie  # imports numba, which takes a while

        return ParserAutomaton(self._caller, self._start, find_trie(vocabulary), vocabulary.eos)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_caller"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._caller = Caller(*self._given)


@suggest_names()
def parser(
    advance: Callable[[Any, bytes], Any] | Advances,
    start: Any = None,
    accepts: Callable[[Any], bool] | None = None,
    *,
    name: str | None = None,
    timeout: float | None = 10.0,
) -> Parser:
    """The texts that an incremental parser written in Python accepts, byte by byte.

        def advance(depth: int, byte: bytes) -> int | None:      # brackets that close
            depth += {b"(": 1, b")": -1}.get(byte, 0)
            return depth if depth >= 0 else None

        fk.parser(advance, start=0, accepts=lambda depth: depth == 0)

    - `advance(state, byte)`: the state after one more byte of UTF-8 (bytes of length 1), or None where no text goes on
      like this. It must leave the state that it is given as it is. An object with such a method is taken in its place,
      with `start` and `accepts` as its own; so is one that is itself the first state, has `advance(byte)`, which gives
      the next object or None, and `accepts()`, if it has.
    - `start`: the state of the empty text.
    - `accepts(state)`: whether a text may end there; by default wherever it has a state.
    - `name`: what errors and results call it.
    - `timeout`: seconds that a call may take, which is then made on another thread than yours; None makes it on yours,
      as a connection to a database may need it, and waits for ever.

    A token is allowed where a state is left behind its last byte, so that masks are as exact as the parser is prompt: a
    parser that notices late that nothing can follow loses particles, but no weight.

    The cost is that of the calls, which `Parser.calls` counts. A mask asks for each byte that some token has next, and
    a state is asked about each byte once: states that are equal are one state, if they have a hash or are lists, dicts
    or sets of what has one. So a parser of few states is soon as fast as a regex. One whose states all differ is called
    up to as often as the vocabulary has distinct beginnings of tokens, 100,000 times for each mask; where texts are
    long, or calls slow, check tokens one by one instead, by a lazy constraint, or whole texts, `constraint(f)`. Some
    260,000 moves are remembered, and each state in which a particle has stood.

    Raises ArgumentError for what does not take these arguments; in a run PotentialError, with the state, the byte and
    the text, where a function raises, takes too long, changes its state or returns what is no state.
    """
    if isinstance(advance, type):
        raise ArgumentError(f"parser({advance.__name__}): that is a class; give an instance, or its functions")
    function, start, accepts, called = _read(advance, start, accepts)
    _check_takes("advance(state, byte)", function, 2)
    if accepts is not None:
        _check_takes("accepts(state)", accepts, 1)
    timeout = read_seconds("parser: timeout", timeout)
    called = read_name(name, "parser") or shorten(f"parser({called})")
    return Parser(function, start, accepts, timeout, called)


def _read(advance: Any, start: Any, accepts: Any) -> tuple[Any, Any, Any, str]:
    """The functions and the first state of what was given, and what to call it."""
    if not isinstance(advance, Advances) or inspect.isfunction(advance):
        return advance, start, accepts, getattr(advance, "__name__", type(advance).__name__)
    called, own = type(advance).__name__, advance.accepts if isinstance(advance, Accepts) else None
    if start is not None or accepts is not None:
        raise ArgumentError(f"parser({called}(...)): an object brings its own start and accepts; leave them out")
    if _takes(advance.advance, 1):
        return _advance_itself, advance, None if own is None else _ask_itself, called
    return advance.advance, advance.start if isinstance(advance, Starts) else None, own, called


def _advance_itself(state: Any, byte: bytes) -> Any:
    return state.advance(byte)


def _ask_itself(state: Any) -> Any:
    return state.accepts()


def _takes(function: Any, n: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * n)
    except TypeError:
        return False
    except ValueError:  # a builtin may have no signature
        return True
    return True


def _check_takes(what: str, function: Any, n: int) -> None:
    if not callable(function):
        raise ArgumentError(f"parser: {quote(function)} is no function; give {what}")
    if not _takes(function, n):
        raise ArgumentError(f"parser: {what} is called so, but {quote(function)} does not take that")
    if inspect.iscoroutinefunction(function):
        raise ArgumentError(f"parser: {what} is called at once, and cannot be async; write a plain function")
