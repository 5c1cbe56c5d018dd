"""One forward pass of a Hugging Face causal language model, whatever names its arguments have."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from feynkac.errors import ModelError


class Forward:
    """Calls `model` for next-token logits only."""

    def __init__(self, model: Any) -> None:
        self.model = model
        known = inspect.signature(model.forward).parameters
        self._keep = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        # Purely recurrent models name their state differently.
        self._cache = "cache_params" if "cache_params" in known else "past_key_values"

    def __call__(self, ids: Tensor, cache: Any = None, **kwargs: Any) -> tuple[Tensor, Any]:
        """(B, V) float32 logits after the last of (B, T) tokens, and the cache; without one the model makes its own."""
        given = kwargs if cache is None else {self._cache: cache, **kwargs}
        out = self.model(input_ids=ids, use_cache=True, return_dict=True, **self._keep, **given)
        cache = getattr(out, self._cache, None)
        if cache is None:
            raise ModelError(f"{type(self.model).__name__} returns no {self._cache}; it cannot continue a text")
        return out.logits[:, -1].float(), cache
