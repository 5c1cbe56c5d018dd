"""Masked language models of transformers: loading them, and what can be told of their modules."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from torch import nn

from feynkac.base.errors import ModelError, quote


def load(name: str, dtype: torch.dtype | str, options: dict[str, Any]) -> tuple[Any, Any]:
    """A model and its tokenizer, by a hub id or from a folder. Raises ModelError."""
    from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer

    if not isinstance(name, str | os.PathLike):
        raise ModelError(f"the model is {quote(name)}; give its id on the hub, or the path of a folder, as a text")
    own = {key: options[key] for key in ("revision", "token", "cache_dir", "trust_remote_code") if key in options}
    try:
        config = AutoConfig.from_pretrained(name, **own)
        tokenizer = AutoTokenizer.from_pretrained(name, **own)
        known = type(config) in AutoModelForMaskedLM._model_mapping
        # A checkpoint with code of its own, such as LLaDA or Dream, has its output layer in the model itself.
        kind = AutoModelForMaskedLM if known or "AutoModelForMaskedLM" in (_list_own(config)) else AutoModel
        return kind.from_pretrained(name, dtype=dtype, **options), tokenizer
    except Exception as cause:  # whatever its files, transformers and safetensors think of
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise ModelError(
            f"cannot load a masked language model from '{name}': {reason} Give the id of one on the hub, or the "
            "path of a folder that holds config.json, weights and tokenizer."
        ) from cause


def move(model: Any, device: Any) -> Any:
    """The model on a device; None leaves it where it is. Raises ModelError for a device that is not there."""
    try:
        if device is None or (isinstance(device, str | torch.device) and torch.device(device).type != "meta"):
            return model if device is None else model.to(device)
    except Exception as cause:
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise ModelError(f"cannot move the model to {quote(str(device))}: {reason}") from cause
    raise ModelError(f"device is {quote(device)}; give a name such as 'cuda', 'cuda:1' or 'cpu', or leave it out")


def _list_own(config: Any) -> dict[str, str]:
    return getattr(config, "auto_map", None) or {}


def share_weights(model: nn.Module) -> nn.Module:
    """A copy of `model` in evaluation mode, whose parameters and buffers are those of `model` themselves."""
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors}).eval()


def count_positions(model: nn.Module) -> int | None:
    """The tokens that a text may have, special ones included; None where the model does not tell."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # Positions of RoBERTa and its kind begin behind that of the padding.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    config = getattr(model, "config", None)
    told = (getattr(config, name, None) for name in ("max_position_embeddings", "max_sequence_length"))
    return next((limit for limit in told if limit), None)
