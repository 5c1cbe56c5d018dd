"""Parameters that an edited model uses instead of the model's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from feynkac.base.errors import ArgumentError


class _Made(NamedTuple):
    tensors: Mapping[str, Tensor]
    """By the dotted names of parameters."""
    seen: Sequence[Any]
    """What the model's own looked like."""


class Parameters:
    """The parameters that edits make of a model's own, and make anew once those have changed."""

    def __init__(self, model: Any, edits: Sequence[Mapping[str, Callable[[Tensor], Tensor]]]) -> None:
        """`edits`: of each what it makes of parameters, by their names. Raises ArgumentError for names unknown."""
        self._model, self._edits = model, edits
        self._made = self._make()

    def __bool__(self) -> bool:
        return bool(self._made.tensors)

    @contextmanager
    def swap(self, twin: Any) -> Iterator[None]:
        """Let the modules of a twin of the model use these for one pass."""
        made = self._made
        if made.seen != _look_at(self._model, made.tensors):
            made = self._made = self._make()
        places = [
            (twin.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], new)
            for name, new in made.tensors.items()
        ]
        before = [module._parameters[name] for module, name, _ in places]
        try:
            for module, name, new in places:
                module._parameters[name] = new
            yield
        finally:
            for (module, name, _), old in zip(places, before, strict=True):
                module._parameters[name] = old

    def _make(self) -> _Made:
        found: dict[str, Tensor] = {}
        for changes in self._edits:
            before = dict(found)
            for name, change in changes.items():
                old = before[name] if name in before else _find(self._model, name)
                new = change(old)
                if new.shape != old.shape or not new.isfinite().all():
                    raise ArgumentError(f"an edit makes {tuple(new.shape)} of {name} {tuple(old.shape)}, or no numbers")
                # What is tied to a parameter, as an output layer to the embedding, changes with it.
                others = [other for other in self._list_tied(name) if other not in changes]
                found |= dict.fromkeys([name, *others], new.to(old))
        return _Made(found, _look_at(self._model, found))

    def _list_tied(self, name: str) -> list[str]:
        """All names of a parameter."""
        own = self._model.get_parameter(name)
        return [other for other, each in self._model.named_parameters(remove_duplicate=False) if each is own]


def _find(model: Any, name: str) -> Tensor:
    try:
        return model.get_parameter(name).detach()
    except AttributeError:
        raise ArgumentError(
            f"an edit names the parameter '{name}', which {type(model).__name__} does not have"
        ) from None


def _look_at(model: Any, names: Iterable[str]) -> list[Any]:
    """What differs once a parameter is moved, replaced or written to."""
    own = [_find(model, name) for name in names]
    return [(x.data_ptr(), x.device, x.dtype, 0 if x.is_inference() else x._version) for x in own]
