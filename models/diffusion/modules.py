"""Copies of networks on the same parameters, for whoever would write to the modules themselves."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import torch

SETTERS = {"set_attn_processor", "_set_pag_attn_processor", "register_attention_control", "prepare_unet"}
"""By these names calls of pipelines set the attention of their networks, and put it back at their end, if at all."""


def copy_modules(network: Any, parameters: bool = True, without: Any = None) -> Any:
    """A copy of the modules of `network`, which takes no memory: parameters and buffers are the same.

    Hooks, and what was compiled, are not copied but used. `parameters=False` copies these, too; `without`: a part that
    is None in the copy. Raises whatever a module does that cannot be copied.
    """
    memo = dict[int, Any]()
    for module in network.modules():
        hooks = (value for name, value in vars(module).items() if name.endswith("_hooks") and value)
        shared = [*(hook for each in hooks for hook in each.values()), vars(module).get("_hf_hook")]
        if parameters:
            shared += [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if type(module).__name__ == "OptimizedModule":
            shared.append(module)
        memo.update({id(each): each for each in shared})
    if without is not None:
        memo[id(without)] = None
    return copy.deepcopy(network, memo)


def sets_attention(pipe: Any) -> bool:
    """Whether a call of `pipe` writes to its networks how they attend, as those of perturbed attention guidance do.

    That lasts as long as the call, which is suspended at each step, or for ever where a run is stopped.
    """
    return any(not SETTERS.isdisjoint(names) for names in list_call_names(pipe))


def list_call_names(pipe: Any) -> Iterator[set[str]]:
    """The names that the code of a call of `pipe` uses, and that of the classes above it."""
    for each in type(pipe).__mro__:
        call = inspect.unwrap(vars(each)["__call__"]) if "__call__" in vars(each) else None
        if inspect.isfunction(call):
            yield set(call.__code__.co_names)


def copy_denoiser(network: torch.nn.Module) -> torch.nn.Module:
    """A copy for one call of a pipeline that writes to it; the `network` itself where it cannot be copied."""
    try:
        return copy_modules(network)
    except Exception:
        return network
