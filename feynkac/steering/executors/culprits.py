"""What of an object cannot be sent to another process, found from the outside in, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import cloudpickle

from feynkac.base.errors import quote

DEEP = 12
"""Levels that are looked through."""


def explain_refusal(what: str, thing: Any, cause: Exception) -> str:
    """Why `thing`, which is called `what`, cannot be sent, by the innermost part of it that cannot."""
    path, inner = _find_innermost(thing)
    where = f" (its {', '.join(path)}: {quote(inner, 80)})" if path else ""
    return (
        f"{what} cannot be sent to a worker{where}: {type(cause).__name__}: {cause}. Locks, open files, connections "
        "and generators stay in their process: open them where they are used, in the function and on first use, or "
        "leave them out in __getstate__"
    )


def can_be_sent(thing: Any) -> bool:
    """Whether it can be pickled, by itself."""
    try:
        cloudpickle.dumps(thing)
    except Exception:
        return False
    return True


def _find_innermost(thing: Any) -> tuple[list[str], Any]:
    path = list[str]()
    while len(path) < DEEP:
        found = next(((name, inner) for name, inner in _list_inner(thing) if not can_be_sent(inner)), None)
        if found is None:
            break
        path.append(found[0])
        thing = found[1]
    return path, thing


def _list_inner(thing: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds, each with what to call it."""
    if isinstance(thing, MethodType):
        yield "object", thing.__self__
    elif isinstance(thing, FunctionType):
        for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True):
            yield f"variable '{name}'", cell.cell_contents
        named = {name: thing.__globals__[name] for name in thing.__code__.co_names if name in thing.__globals__}
        yield from ((f"global '{name}'", value) for name, value in named.items() if not isinstance(value, ModuleType))
    elif isinstance(thing, dict):
        yield from ((f"entry {quote(key)}", value) for key, value in thing.items())
    elif isinstance(thing, list | tuple):
        yield from ((f"entry {i}", value) for i, value in enumerate(thing))
    else:
        yield from ((f"attribute '{name}'", value) for name, value in _list_attributes(thing).items())


def _list_attributes(thing: Any) -> dict[str, Any]:
    try:
        state = thing.__getstate__()
    except Exception:
        state = None
    return state if isinstance(state, dict) else {}
