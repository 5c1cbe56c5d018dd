"""`has` is `isinstance`, only faster."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from feynkac.base.capabilities import OF_AUTOMATA, OF_MODELS, OF_OBSERVERS, OF_POTENTIALS, OF_STATES, Weighed, has
from feynkac.base.sampling import NeedsGraph

ALL = (*OF_MODELS, *OF_STATES, *OF_POTENTIALS, *OF_AUTOMATA, *OF_OBSERVERS, NeedsGraph)
NAMES = {
    name: None
    for capability in ALL
    for name in (*vars(capability), *vars(capability).get("__annotations__", ()))
    if not name.startswith("_")
}


@pytest.mark.parametrize("capability", ALL)
def test_has_is_isinstance(capability: type) -> None:
    whole = SimpleNamespace(**dict.fromkeys(NAMES, len))
    assert has(whole, capability) and isinstance(whole, capability)
    found = []
    for name in NAMES:
        part = SimpleNamespace(**{key: value for key, value in vars(whole).items() if key != name})
        assert has(part, capability) == isinstance(part, capability)
        found.append(has(part, capability))
        part = SimpleNamespace(**{**vars(whole), name: None})
        assert has(part, capability) == isinstance(part, capability)
    assert not all(found)


def test_every_member_counts() -> None:
    assert has(SimpleNamespace(memory=1, group=2, since=3), Weighed)
    assert not has(SimpleNamespace(memory=1, group=2), Weighed)
