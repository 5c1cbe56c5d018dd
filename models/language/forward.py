"""One forward pass of a Hugging Face causal language model, whatever names its arguments have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from feynkac.base.errors import ModelError


class Forward:
    """Calls `model` for logits and its cache."""

    def __init__(self, model: Any) -> None:
        self.model = model
        known = inspect.signature(model.forward).parameters
        self._keeps = "logits_to_keep" in known
        # Purely recurrent models name their state differently.
        self._cache = "cache_params" if "cache_params" in known else "past_key_values"

    def last(self, ids: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """(B, V) float32 logits after the last of (B, T) tokens, and the cache; without one the model makes its own."""
        logits, cache = self.all(ids, cache, **({"logits_to_keep": 1} if self._keeps else {}))
        return logits[:, -1].float(), cache

    def all(self, ids: Tensor, cache: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        """(B, T, V) logits after each of (B, T) tokens, in the model's own precision, and the cache."""
        given = kwargs if cache is None else {self._cache: cache, **kwargs}
        out = self.model(input_ids=ids, use_cache=True, return_dict=True, **given)
        cache = getattr(out, self._cache, None)
        if cache is None:
            raise ModelError(
                f"{type(self.model).__name__} returns no {self._cache}; a model without a cache is not supported"
            )
        return out.logits, cache


@contextmanager
def selected_rows(model: Any, order: Tensor, last: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    """Select position `last[i]` of row `order[i]` before the output layer, whose result is some 100 times larger.

    Gives a function from the model's logits to the (F, V) float32 selected ones, which selects only now if the output
    layer is not one that takes the (F, Q, width) hidden states.
    """
    done = False

    def select(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal done
        if done or not args or args[0].ndim != 3:
            return None
        done = True
        return (args[0][order, last][:, None], *args[1:])

    head = model.get_output_embeddings()
    handle = None if head is None else head.register_forward_pre_hook(select)
    try:
        yield lambda logits: logits[:, 0].float() if done else logits[order, last].float()
    finally:
        if handle is not None:
            handle.remove()
