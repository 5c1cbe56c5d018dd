"""What models may offer of saved runs: populations, paths and contexts that another process reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from feynkac.base.contract import Model, State


@runtime_checkable
class Saves(Protocol):
    """A model whose populations can be written, and read by another process. Asked by `checkpoint=`.

    Without it: that refuses. What is written is a tree: None, bools, numbers, texts and bytes, arrays and tensors, and
    lists, tuples, sets and dicts of these; potentials may stand in it, too, and are found again by their places.
    """

    def prepare_saving(self) -> Model:
        """This model, in a run that is saved. Raises ArgumentError for what cannot be, which says what to do."""
        ...

    def identify(self) -> Mapping[str, Any]:
        """What must be the same where a run goes on, by names that errors give: plain values, and lists and dicts."""
        ...

    def save(self, state: Any) -> Any:
        """A population between two steps. Raises ArgumentError that names what of it cannot be written."""
        ...

    def load(self, saved: Any) -> State:
        """The population that `save` wrote: what follows is what would have followed, bit for bit on a CPU."""
        ...


@runtime_checkable
class SavesPaths(Protocol):
    """A model whose paths can be written: those that `Replays.trace` gives. Asked by `checkpoint=` with "gibbs".

    Without it: that refuses.
    """

    def write_path(self, path: Any) -> Any:
        """The path as a tree (see `Saves`)."""
        ...

    def read_path(self, saved: Any) -> Any:
        """What `write_path` wrote."""
        ...


@runtime_checkable
class SavesContexts(Protocol):
    """Contexts of a language model that can be written (see `Saves`). Without it: no run on them is saved."""

    def save(self) -> Any:
        """All that they keep."""
        ...

    def load(self, saved: Any) -> None:
        """Take up what `save` wrote: called once, instead of `start`, on contexts of the same prompts."""
        ...
