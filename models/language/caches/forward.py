"""One forward pass of a Hugging Face causal language model, whatever names its arguments have."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from feynkac.base.errors import ModelError

CACHE = ("cache", "past_key_values", "cache_params")
"""The names of the cache, as an argument and in the output, by release of transformers and by architecture."""


class Last(NamedTuple):
    """What a pass of B texts leaves at its last token."""

    logits: Tensor
    """(B, V) float32"""
    hidden: Tensor | None
    """(B, width) float32: what the output layer read; None where that is not a layer of hidden states."""
    cache: Any


class Forward:
    """Calls `model` for logits and its cache. Raises ModelError for a model without one."""

    def __init__(self, model: Any) -> None:
        self.model = model
        known = _list_arguments(model)
        self._keeps, self._places = "logits_to_keep" in known, "position_ids" in known
        named = [name for name in CACHE if name in known]
        if not named:
            raise ModelError(f"{self._refused} takes no cache")
        self._cache = named[0]

    def last(self, ids: Tensor, cache: Any = None, start: int = 0) -> Last:
        """What there is after the last of (B, T) tokens; without a cache the model makes its own.

        `start`: the position of the first token.
        """
        kwargs: dict[str, Any] = {"logits_to_keep": 1} if self._keeps else {}
        if self._places:  # given, for Bamba does not ask its cache
            kwargs["position_ids"] = torch.arange(start, start + ids.shape[1], device=ids.device).expand_as(ids)
        rows = torch.arange(len(ids), device=ids.device)
        with select_rows(self.model, rows, torch.full_like(rows, -1)) as selection:
            logits, cache = self.all(ids, cache, **kwargs)
            return Last(selection.apply(logits), selection.hidden, cache)

    def all(self, ids: Tensor, cache: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        """(B, T, V) logits after each of (B, T) tokens, in the model's own precision, and the cache."""
        given = kwargs if cache is None else {self._cache: cache, **kwargs}
        out = self.model(input_ids=ids, use_cache=True, return_dict=True, **given)
        # By the output's own fields: newer releases also answer to old names, with a warning.
        found = next((value for name, value in out.items() if name in CACHE), None)
        if found is None:
            raise ModelError(f"{self._refused} returns no cache")
        if cache is not None and found is not cache:  # it may have been ignored in silence
            raise ModelError(f"{self._refused} returns another cache than it is given as {self._cache}")
        logits = next((value for name, value in out.items() if name == "logits"), None)
        if logits is None or logits.ndim != 3:
            raise ModelError(
                f"{type(self.model).__name__} gives no logits of next tokens; give a causal language model, as "
                "transformers.AutoModelForCausalLM loads it"
            )
        return logits, found

    @property
    def _refused(self) -> str:
        return f"a model without a cache is not supported, and {type(self.model).__name__}"


def _list_arguments(model: Any) -> Collection[str]:
    """The names of a model's arguments; where a wrapper passes on whatever it is given, those of the model within."""
    own = inspect.signature(model.forward).parameters
    if all(argument.kind != argument.VAR_KEYWORD for argument in own.values()):
        return own
    signatures = (inspect.signature(module.forward).parameters for module in model.modules())
    return next((known for known in signatures if not known.keys().isdisjoint(CACHE)), own)


class Selection:
    """Position `last[i]` of row `order[i]` of one pass, for F places: all that is asked of it."""

    def __init__(self, order: Tensor, last: Tensor) -> None:
        self._order, self._last = order, last
        self._read: Tensor | None = None

    def hook(self, module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The places alone, in front of the output layer, whose result is some 100 times larger."""
        if self._read is not None or not args or args[0].ndim != 3:
            return None
        read = self._read = args[0][self._order, self._last]
        return (read[:, None], *args[1:])

    def apply(self, logits: Tensor) -> Tensor:
        """(F, V) float32 of a model's logits; where the output layer is none that takes hidden states, picked now."""
        return logits[:, 0].float() if self._read is not None else logits[self._order, self._last].float()

    @property
    def hidden(self) -> Tensor | None:
        """(F, width) float32: what the output layer read; None where it is none that takes (B, T, width)."""
        return None if self._read is None else self._read.float()


@contextmanager
def select_rows(model: Any, order: Tensor, last: Tensor) -> Iterator[Selection]:
    """Ask a pass of `model` about position `last[i]` of row `order[i]` only."""
    selection = Selection(order, last)
    head = model.get_output_embeddings()
    handle = None if head is None else head.register_forward_pre_hook(selection.hook)
    try:
        yield selection
    finally:
        if handle is not None:
            handle.remove()


def autocast_dtype(model: Any) -> torch.dtype | None:
    """The precision to which torch.autocast lowers calls of the model here and now; None outside of it."""
    kind = model.get_input_embeddings().weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
