"""Asking a user's function about texts, and refusing by name what is no answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any, TypeAlias

from feynkac.base.deadline import Overdue, call_each
from feynkac.base.errors import ArgumentError, PotentialError, quote, shorten
from feynkac.base.numbers import as_bool

Show: TypeAlias = Callable[[int], str]
"""The text that the question with this number is about."""


class Question:
    """A user's function that cannot go wrong in silence.

    With `batch` it takes the list of all arguments at once, and each call may take `timeout` seconds. Every method
    raises PotentialError with the text that it was asked about.
    """

    def __init__(self, f: Callable[..., Any], name: str, batch: bool, timeout: float | None) -> None:
        self.name = name
        self._f, self._batch, self._timeout = f, batch, timeout

    def ask(self, arguments: Sequence[tuple[Any, ...]], show: Show) -> list[Any]:
        """What the function returns for each of `arguments`, which are of the texts that `show` gives."""
        if not arguments:
            return []
        asked = 0

        def call(i: int, *given: Any) -> Any:
            nonlocal asked
            asked = i
            return self._f(*given)

        calls = [partial(call, 0, [given[0] for given in arguments])] if self._batch else [
            partial(call, i, *given) for i, given in enumerate(arguments)
        ]  # fmt: skip
        try:
            returned = call_each(calls, self._timeout)
        except Overdue as late:
            raise PotentialError(
                f"{self._place(late.at, show, len(arguments))} took longer than timeout={self._timeout:g} seconds; let "
                "it stop by itself, or give it more time"
            ) from None
        except Exception as cause:
            at = self._place(asked, show, len(arguments))
            raise PotentialError(f"{at} raised {type(cause).__name__}: {cause}") from cause
        return self._read_batch(returned[0], arguments, show) if self._batch else returned

    def ask_bools(self, arguments: Sequence[tuple[Any, ...]], show: Show) -> list[bool]:
        """The same, where the function answers True or False."""
        answers = list[bool]()
        for i, value in enumerate(self.ask(arguments, show)):
            answer = as_bool(value)
            if answer is None:
                raise PotentialError(
                    f"'{self.name}', asked about the text {_quote(show(i))}, returned {_describe(value)}; return True "
                    "or False"
                )
            answers.append(answer)
        return answers

    def _read_batch(self, returned: Any, arguments: Sequence[Any], show: Show) -> list[Any]:
        try:  # what has no order answers nothing
            values = None if isinstance(returned, str | bytes | Mapping | Set) else list(returned)
        except TypeError:
            values = None
        if values is None or len(values) != len(arguments):
            count = _describe(returned) if values is None else f"{len(values)} values"
            raise PotentialError(
                f"{self._place(0, show, len(arguments))} returned {count}; with batch=True return one bool for each"
            )
        return values

    def _place(self, at: int, show: Show, n: int) -> str:
        if self._batch:
            return f"'{self.name}', asked about {n} texts, the first of them {_quote(show(0))},"
        return f"'{self.name}', asked about the text {_quote(show(at))},"


def check_function(f: Any, what: str, given: Sequence[str]) -> None:
    """Raises ArgumentError for what is no function of the arguments `given`, or is async."""
    if not callable(f):
        raise ArgumentError(f"{what} is {quote(f)}; give a function of ({', '.join(given)})")
    if any(inspect.iscoroutinefunction(each) for each in (f, type(f).__call__)):
        raise ArgumentError(f"{what} is async, and is called without an event loop; give a function that runs it")
    try:
        signature = inspect.signature(f)
    except (ValueError, TypeError):  # functions written in C may not tell
        return
    try:
        signature.bind(*given)
    except TypeError as cause:
        raise ArgumentError(f"{what} takes {signature}, and is called with ({', '.join(given)}): {cause}") from None


def name_function(f: Any) -> str:
    """What a function is called in errors."""
    return getattr(f, "__name__", None) or type(f).__name__


def _quote(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:38]} ... {text[-38:]}")


def _describe(value: Any) -> str:
    return "None" if value is None else shorten(f"{type(value).__name__} {quote(value)}")
