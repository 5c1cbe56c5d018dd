"""Calls of a user's parser: counted, timed, and what goes wrong in them told by name."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import Any

import numpy as np

from feynkac.base.deadline import Overdue, call_each
from feynkac.base.errors import PotentialError, quote

_CHECKED = 200  # states of which it is looked at whether a call changes them
_UNCHANGING = (int, float, str, bytes, frozenset, type(None))


class Caller:
    """The functions of a parser. Any number of threads may call."""

    def __init__(
        self,
        advance: Callable[[Any, bytes], Any],
        accepts: Callable[[Any], Any] | None,
        timeout: float | None,
        name: str,
    ) -> None:
        self._advance, self._accepts, self._timeout, self.name = advance, accepts, timeout, name
        self.calls = 0
        """Calls of `advance` and `accepts` so far."""
        self._to_check = _CHECKED
        self._lock = Lock()

    def advance(self, states: Sequence[Any], bytes_: Sequence[bytes], texts: Sequence[bytes]) -> list[Any]:
        """What the parser makes of each state and byte; `texts` are what led to the states. Raises PotentialError."""
        watched = self._snap(states)
        given = list(zip(states, bytes_, strict=True))
        found = self._call("advance", self._advance, given, texts)
        for i, before in watched.items():
            if not _same(before, states[i]):
                said = self._at("advance", states[i], texts[i], bytes_[i])
                raise PotentialError(f"{said} changed the state that it was given; leave it as it is, return a new one")
        for i, after in enumerate(found):
            if isinstance(after, (bool, np.bool_)) or inspect.isawaitable(after) or after is NotImplemented:
                said = self._at("advance", states[i], texts[i], bytes_[i])
                raise PotentialError(
                    f"{said} returned {quote(after)}; return the state after the byte, or None where no text "
                    "goes on like this"
                )
        return found

    def accepts(self, states: Sequence[Any], texts: Sequence[bytes]) -> list[bool]:
        """Whether a text may end in each state. Raises PotentialError."""
        if self._accepts is None:
            return [True] * len(states)
        found = self._call("accepts", self._accepts, [(state,) for state in states], texts)
        for state, text, answer in zip(states, texts, found, strict=True):
            if not isinstance(answer, (bool, np.bool_)):
                said = self._at("accepts", state, text)
                raise PotentialError(f"{said} returned {quote(answer)}; return True or False")
        return [bool(answer) for answer in found]

    def _call(self, what: str, function: Any, given: list[tuple[Any, ...]], texts: Sequence[bytes]) -> list[Any]:
        found: list[Any] = []

        def call(arguments: tuple[Any, ...]) -> None:
            found.append(function(*arguments))

        def at(k: int) -> str:
            state, *byte = given[k]
            return self._at(what, state, texts[k], *byte)

        try:
            call_each([partial(call, arguments) for arguments in given], self._timeout)
        except Overdue as late:
            said = f"{at(late.at)} takes longer than {self._timeout:g} s"
            raise PotentialError(f"{said}; make it faster, or raise timeout=") from None
        except Exception as error:
            said = f"{at(len(found))} raised {type(error).__name__}: {error}"
            raise PotentialError(f"{said}; return None for what is no text") from error
        finally:
            with self._lock:
                self.calls += len(found)
        return found

    def _snap(self, states: Sequence[Any]) -> dict[int, Any]:
        """Copies of some states, where a state can change and be copied."""
        copies: dict[int, Any] = {}
        seen: set[int] = set()
        for i, state in enumerate(states):
            if self._to_check <= 0:
                break
            if id(state) in seen or isinstance(state, _UNCHANGING):
                continue
            seen.add(id(state))
            self._to_check -= 1
            try:
                copies[i] = copy.deepcopy(state)
            except Exception:
                continue
        return copies

    def _at(self, what: str, state: Any, text: bytes, byte: bytes | None = None) -> str:
        given = quote(state) + ("" if byte is None else f", {quote(byte)}")
        return f"'{self.name}': {what}({given}), behind the text {quote(text)},"


def _same(before: Any, after: Any) -> bool:
    """Whether a state is still equal to the copy made of it: what has no equality of its own goes by its parts."""
    try:
        if isinstance(before, (list, tuple)) and type(before) is type(after):
            return len(before) == len(after) and all(map(_same, before, after))
        if isinstance(before, dict) and isinstance(after, dict):
            return len(before) == len(after) and all(_same(value, after[key]) for key, value in before.items())
        if isinstance(before, np.ndarray):
            return np.array_equal(before, after)
        if type(before).__eq__ is not object.__eq__:
            return bool(before == after)
        # What is added to an object, such as a cached property, may be added.
        mine, theirs = getattr(before, "__dict__", {}), getattr(after, "__dict__", {})
        return all(key in theirs and _same(value, theirs[key]) for key, value in mine.items())
    except Exception:  # an equality that raises, a state that holds itself, keys that are compared by identity
        return True
