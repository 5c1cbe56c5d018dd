"""Programs in other processes: they travel by the names of their functions, as functions themselves do."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def find_by_name(module: str, name: str) -> Any:
    """What stands in a module under a qualified name; None for nothing, as for what is local to a function."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def find_function(module: str, name: str) -> Callable[..., Any] | None:
    """The function of that name; where a program has taken its place, the function in it."""
    found = find_by_name(module, name)
    return getattr(found, "__wrapped__", found)


def name_of_function(function: Callable[..., Any]) -> tuple[str, str] | None:
    """The module and the name under which `function` is found; None for a local one."""
    name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if name[0] is None or name[1] is None or find_function(name[0], name[1]) is not function:
        return None
    return name[0], name[1]
