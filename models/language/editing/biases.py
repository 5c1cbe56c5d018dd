"""Attention towards marked tokens of a prompt, where a model's own attention runs: as an additive mask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feynkac.base.errors import ModelError
from feynkac.models.language.editing.contract import Where

if TYPE_CHECKING:
    from feynkac.models.language.editing.edits import Laid

_MASKED = ("sdpa", "eager")
"""The attention functions of transformers that take an additive mask for each head."""


@contextmanager
def bias_attention(model: Any, laid: Laid, prompt: NDArray[np.int64], where: Where) -> Iterator[None]:
    """Add the biases of each row's prompt to the scores of a pass by the model's own attention.

    Raises ModelError for an attention that takes no mask.
    """
    layers = sorted({layer for g in np.unique(prompt).tolist() for layer in laid.list_biases(g)})
    with ExitStack() as stack:
        for layer in layers:
            name = next(bias.attention for g in prompt.tolist() for bias, _ in laid.list_biases(g).get(layer, ()))
            module = model.get_submodule(name)
            kind = getattr(getattr(module, "config", None), "_attn_implementation", None)
            if kind not in _MASKED:
                raise ModelError(
                    f"the attention '{kind}' of {name} takes no bias; load the model with 'sdpa' or 'eager'"
                )
            hook = _Masking(laid, layer, prompt, where)
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


class _Masking:
    """A hook that gives an attention module a mask (F, heads, Q, K): 0 or a bias, and -inf for what comes later."""

    def __init__(self, laid: Laid, layer: int, prompt: NDArray[np.int64], where: Where) -> None:
        self._laid, self._layer, self._prompt, self._where = laid, layer, prompt, where

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        hidden = args[0] if args else kwargs["hidden_states"]
        given, where = kwargs.get("attention_mask"), self._where
        n_keys = int(where.positions.max()) + 1
        if given is None:  # which no attention is whose window has lost tokens
            later = torch.arange(n_keys, device=hidden.device) > where.positions[..., None]
            base = torch.zeros(later.shape, dtype=hidden.dtype, device=hidden.device)
            given = base.masked_fill_(later, torch.finfo(hidden.dtype).min)[:, None]
        elif given.dtype == torch.bool:
            given = torch.zeros_like(given, dtype=hidden.dtype).masked_fill_(~given, torch.finfo(hidden.dtype).min)
        if (seen := given.shape[-1]) > n_keys:
            raise ModelError(f"this attention has places for {seen} tokens where there are {n_keys}; it takes no bias")
        bias = torch.stack([self._find(row, g, n_keys, hidden) for row, g in enumerate(self._prompt.tolist())])
        # A window that is full has kept the last tokens only.
        return args, {**kwargs, "attention_mask": given + bias[..., n_keys - seen :]}

    def _find(self, row: int, g: int, n_keys: int, hidden: Tensor) -> Tensor:
        """(heads, Q, K) of one row."""
        biases, where = self._laid.list_biases(g).get(self._layer, ()), self._where
        total = hidden.new_zeros(1, 1, 1).expand(1, hidden.shape[1], n_keys)
        for bias, numbers in biases:
            width = min(numbers.shape[1], n_keys)
            padded = torch.nn.functional.pad(numbers[:, :width].to(hidden), (0, n_keys - width))[:, None]
            acts = (where.steps[row] >= 0) if bias.queries == "response" else torch.ones_like(where.steps[row]) > 0
            total = total + padded * acts[None, :, None]
        return total if total.shape[0] > 1 else total.expand(self._heads, -1, -1)

    @property
    def _heads(self) -> int:
        every = (
            numbers for g in set(self._prompt.tolist()) for _, numbers in self._laid.list_biases(g).get(self._layer, ())
        )
        return next(every).shape[0]
