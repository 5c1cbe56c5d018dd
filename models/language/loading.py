"""Weights and what comes with them as a model is loaded, and what can go wrong, in one line."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from feynkac.base.errors import ArgumentError, ModelError, quote

if TYPE_CHECKING:
    import torch


def read_reason(cause: Exception) -> str:
    """The first line of an error, or what it is called."""
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]


def read_dtype(dtype: torch.dtype | str | None) -> torch.dtype | str:
    """The type of a model's weights; "auto" is the checkpoint's own. Raises ModelError for the name of none."""
    import torch

    if dtype is None or dtype == "auto":
        return "auto"
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ModelError(f"there is no dtype {quote(dtype)} for a model; give auto, float32, bfloat16 or float16")
    return found


def load_weights(name: str, dtype: torch.dtype | str | None, kwargs: Mapping[str, Any]) -> Any:
    """The module of a model, by its hub id or from a folder. Raises what transformers does, ModelError for a dtype."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(name, dtype=read_dtype(dtype), **kwargs)


def reload_weights(
    name: str, dtype: torch.dtype | str | None, device: torch.device | str | None, kwargs: Mapping[str, Any]
) -> Callable[[], Any]:
    """What loads the same module in another process, on the same kind of device, with the access token of that one."""
    place = os.path.abspath(name) if os.path.isdir(name) else name
    rest = {key: value for key, value in kwargs.items() if key != "token"}
    return functools.partial(_load_and_move, place, dtype, None if device is None else str(device).split(":")[0], rest)


def _load_and_move(name: str, dtype: Any, device: str | None, kwargs: Mapping[str, Any]) -> Any:
    return move(load_weights(name, dtype, kwargs), device)


def check_device(device: torch.device | str | None) -> None:
    """Raises ModelError for a device that is not there, before weights are read for it."""
    import torch

    move(torch.nn.Linear(1, 1), device)


def move(model: Any, device: Any) -> Any:
    """The model on a device. Raises ModelError where there is none, or no room on it, and names those there are."""
    import torch

    if isinstance(device, bool) or not isinstance(device, str | int | torch.device | None):
        raise ModelError(f"device is {quote(device)}; give a name such as 'cuda', 'cuda:1' or 'cpu', or leave it out")
    try:
        return model if device is None else model.to(device)
    except Exception as cause:
        found = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        reason = read_reason(cause).rstrip(".")
        advice = "" if torch.cuda.is_available() else "; leave device out, or install a torch that is built for it"
        raise ModelError(
            f"cannot move the model to {quote(str(device))}: {reason}; torch finds {found} here{advice}"
        ) from cause


def check_parts(model: Any, tokenizer: Any) -> None:
    """Raises ArgumentError for what is no model and no tokenizer of transformers, nor anything that acts as one."""
    for name, part, needed in (
        ("model", model, "get_output_embeddings"),
        ("tokenizer", tokenizer, "convert_ids_to_tokens"),
    ):
        if isinstance(part, type) or not callable(getattr(part, needed, None)):
            raise ArgumentError(
                f"CausalLM: the {name} is {quote(part)}; give a model and a tokenizer of transformers, or load "
                "both by CausalLM.from_pretrained(name)"
            )
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ArgumentError(
            f"CausalLM: {type(model).__name__} has an encoder and a decoder: it makes one text of another, and "
            "continues none; give a causal language model"
        )
    if getattr(model.get_input_embeddings(), "weight", None) is None:
        raise ArgumentError(
            f"CausalLM: {type(model).__name__} has no single table of embeddings: it reads several tokens at a time; "
            "give a causal language model"
        )


def list_eos(model: Any, tokenizer: Any) -> list[int]:
    """The ids that end a text, as the generation config and the tokenizer name them."""
    # Chat models end a turn and a document with different tokens: generation config and tokenizer may each know one.
    found = [getattr(source, "eos_token_id", None) for source in (getattr(model, "generation_config", None), tokenizer)]
    listed = [int(i) for ids in found if ids is not None for i in (ids if isinstance(ids, list | tuple) else [ids])]
    return [i for i in listed if i >= 0]  # some configurations say -1 for none
