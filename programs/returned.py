"""What a program may return: anything but what it has forgotten to sample, or would only sample later."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Set
from types import AsyncGeneratorType, CoroutineType, GeneratorType, ModuleType
from typing import Any

from feynkac.base.errors import ProgramError, quote
from feynkac.programs.distribution import Distribution

_NO_RECORDS = ("builtins", "feynkac", "numpy", "torch")
"""Packages whose objects are not looked into: they hold models and arrays, and no values of a program."""
_LATER = (GeneratorType, CoroutineType, AsyncGeneratorType, map, filter, zip)
"""What runs only when somebody goes through it, and can be gone through once."""


def check_returned(name: str, value: Any) -> None:
    """Raises ProgramError if the `value` of program `name` is or holds what was never sampled, or has never run."""
    for part in _list_parts(value):
        if isinstance(part, _LATER):
            raise ProgramError(
                f"program '{name}' returned {quote(part)}, of which nothing has run yet; return what it makes, such as "
                "list(...) or ''.join(...) of it"
            )
        if isinstance(part, Distribution) and not part.is_plain:
            raise ProgramError(
                f"program '{name}' returned {quote(part)}, which was never sampled: write x = p.sample(text.gen(...)) "
                "in place of x = text.gen(...)"
            )


def _list_parts(value: Any) -> Iterator[Any]:
    """A value, and what is in it: in containers, and in the fields of objects."""
    pending, seen = [value], dict[int, Any]()
    while pending:
        for part in _unpack(pending.pop()):
            yield part
            if id(part) not in seen and (fields := _list_fields(part)):
                seen[id(part)] = part
                pending.append(fields)


def _unpack(value: Any) -> Iterator[Any]:
    """A value, or what a container holds, containers in it included."""
    if isinstance(value, list | tuple | Set | deque):
        for each in value:
            yield from _unpack(each)
    elif isinstance(value, Mapping):
        yield from _unpack((*value, *value.values()))
    else:
        yield value


def _list_fields(value: Any) -> tuple[Any, ...]:
    """What an object of a user's class holds, such as a dataclass or a pydantic model; nothing for any other."""
    kind = type(value)
    if kind.__module__.partition(".")[0] in _NO_RECORDS or callable(value) or isinstance(value, ModuleType):
        return ()
    slots = [name for each in kind.__mro__ for name in _list_slots(each) if name not in ("__dict__", "__weakref__")]
    return tuple(getattr(value, name, None) for name in dict.fromkeys(["__dict__", *slots]))


def _list_slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)
