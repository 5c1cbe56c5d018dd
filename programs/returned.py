"""What a program may return: anything but what it has forgotten to sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

from feynkac.base.errors import ProgramError
from feynkac.programs.distributions import Distribution


def check_returned(name: str, value: Any) -> None:
    """Raises ProgramError if the `value` of program `name` is or holds what a context offered to be sampled."""
    for part in _list_parts(value):
        if isinstance(part, Distribution) and (part.composite or part.in_context):
            raise ProgramError(
                f"program '{name}' returned {part!r}, which was never sampled: write x = p.sample(text.gen(...)) in "
                "place of x = text.gen(...)"
            )


def _list_parts(value: Any) -> Iterator[Any]:
    """A value, or what a container holds, containers in it included."""
    if isinstance(value, list | tuple | Set):
        for each in value:
            yield from _list_parts(each)
    elif isinstance(value, Mapping):
        yield from _list_parts(tuple(value.values()))
    else:
        yield value
