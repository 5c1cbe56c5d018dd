"""The potentials of a run by where they stand in it, and what tells them from others."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from typing import Any

from feynkac.base.capabilities import Consults, has
from feynkac.base.contract import Potential
from feynkac.base.errors import quote
from feynkac.potentials.rewards.samples import SampleFactor
from feynkac.smc.checks import name_of
from feynkac.steering.problems import Problems

_OURS = "feynkac.potentials."
_PLAIN = (bool, int, float, str, type(None))


_MADE = "._made['decoded']"
"""The place, in a function of the sample, of what it makes for decoded samples when that is first needed."""


class Places(Mapping[str, Any]):
    """All potentials of a run, and their parts that something may be kept for, by names that are the same in each."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    def __getitem__(self, name: str) -> Any:
        found = self._list()
        if name not in found and name.endswith(_MADE) and isinstance(whole := self[name[: -len(_MADE)]], SampleFactor):
            return whole.on_decoded
        return found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._list())

    def __len__(self) -> int:
        return len(self._list())

    def items(self) -> ItemsView[str, Any]:
        """All of them as they are now."""
        return self._list().items()

    def _list(self) -> dict[str, Any]:
        problems, seen = self._problems, set[int]()
        places = [*((f"problem {g + 1}", own) for g, own in enumerate(problems.own)), ("all", problems.shared)]
        return {name: part for place, whole in places for name, part in _walk(place, whole, seen)}


def _walk(name: str, thing: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """What `thing` is made of, itself first; what was met elsewhere is not met again."""
    if isinstance(thing, list | tuple):
        for i, part in enumerate(thing):
            yield from _walk(f"{name}[{i}]", part, seen)
    elif isinstance(thing, dict):
        for key, part in thing.items():
            yield from _walk(f"{name}[{quote(key)}]", part, seen)
    elif id(thing) not in seen and _may_keep(thing):
        seen.add(id(thing))
        yield name, thing
        for i, scorer in enumerate(thing.scorers if has(thing, Consults) else ()):
            yield f"{name}.scorers[{i}]", scorer
        for own, part in (vars(thing) if hasattr(thing, "__dict__") else {}).items():
            yield from _walk(f"{name}.{own}", part, seen)


def _may_keep(thing: Any) -> bool:
    return not isinstance(thing, type) and (isinstance(thing, Potential) or type(thing).__module__.startswith(_OURS))


def describe_potentials(problems: Problems) -> dict[str, Any]:
    """The names of all potentials, and the settings of ours: numbers and texts that are no one's but theirs."""
    return {
        name: {"is": name_of(thing), "reads": _list_read(thing), **_read_settings(thing)}
        for name, thing in Places(problems).items()
        if isinstance(thing, Potential) and not name.endswith(_MADE)
    }


def _list_read(thing: Any) -> list[str]:
    return [repr(scorer) for scorer in thing.scorers] if has(thing, Consults) else []


def _read_settings(thing: Any) -> dict[str, Any]:
    if not type(thing).__module__.startswith(_OURS):
        return {}  # the attributes of a user's own may change as they like
    return {
        name: value
        for name, value in vars(thing).items()
        if type(value) in _PLAIN and name != "name" and not name.startswith("_")
    }
