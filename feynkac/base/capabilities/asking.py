"""Asking whether an object has a capability."""

from __future__ import annotations

import functools
from typing import Protocol, TypeGuard, TypeVar, cast, runtime_checkable

from feynkac.base.errors import FeynkacError, PotentialError

C = TypeVar("C")


def require(thing: object, capability: type[C], message: str, error: type[FeynkacError] = PotentialError) -> C:
    """`thing`, which has `capability`. Raises `error` with `message` where it has not."""
    if not has(thing, capability):
        raise error(message)
    return cast(C, thing)


def has(thing: object, capability: type[C]) -> TypeGuard[C]:
    """Whether `thing` has `capability`: `isinstance` for where it is asked at each step, as that takes 20 µs."""
    methods, attributes = _list_members(capability)
    # A method that is None is how a class says that it has it not.
    return all(getattr(thing, name, None) is not None for name in methods) and all(
        hasattr(thing, name) for name in attributes
    )


def offers(thing: object, *contracts: type) -> bool:
    """Whether `thing` is an instance, and not the class, of what has all that one of these protocols asks for."""
    return not isinstance(thing, type) and isinstance(thing, contracts)


@functools.cache
def _list_members(capability: type) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the methods, and of the other attributes, that a capability declares."""
    names = dict[str, None]()
    for part in capability.__mro__:
        if getattr(part, "_is_protocol", False) and part is not Protocol:
            names |= dict.fromkeys([*vars(part), *vars(part).get("__annotations__", ())])
    public = [name for name in names if not name.startswith("_")]
    methods = tuple(name for name in public if callable(getattr(capability, name, None)))
    return methods, tuple(name for name in public if name not in methods)


@runtime_checkable
class Named(Protocol):
    """A name, for errors and results. Without it: the name of the class."""

    name: str
