"""Gradients through a network: what is asked of one, and how they are taken."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from feynkac.base.errors import FeynkacError, ModelError, is_out_of_memory
from feynkac.models.diffusion.checks import within_memory

EXPONENTS = 100
"""Powers of two, up and down, by which gradients are scaled: fewer than float32 has."""
MOVERS = (
    "AlignDevicesHook", "CpuOffload", "GroupOffloadingHook", "LazyPrefetchGroupOffloadingHook", "LayerwiseCastingHook",
)  # fmt: skip
"""Hooks of accelerate and diffusers after which weights are not what they were."""


class Pull(Protocol):
    """The transposed Jacobian of estimates (R, ...) in their latents, times gradients of the estimates.

    `again` says whether it will be asked once more; the last time frees what the network has kept.
    """

    def __call__(self, gradient: Tensor, again: bool, /) -> Tensor: ...


def pull_back(x: Tensor, estimate: Tensor, gradient: Tensor, again: bool) -> Tensor:
    """(R, ...) the `gradient` with respect to `estimate` (R, ...) as one with respect to its latents `x` (R, ...).

    Each row goes through the network at size 1, and is scaled back by the same power of two, which rounds nothing:
    numbers of half precision span few. Raises ModelError where memory runs out, and for what the network raises.
    """
    rows = gradient.flatten(1).abs().amax(1).reshape(-1, *[1] * (gradient.ndim - 1))
    exponent = torch.frexp(rows).exponent.clamp(-EXPONENTS, EXPONENTS)
    with within_memory("the gradient through the network", len(x)):
        try:
            (found,) = torch.autograd.grad(estimate, x, torch.ldexp(gradient, -exponent).to(estimate), again)
        except FeynkacError:
            raise
        except Exception as cause:
            if is_out_of_memory(cause):
                raise
            raise ModelError(
                f"the gradient through the network cannot be taken ({type(cause).__name__}: {cause}); take "
                "Guided(..., through='x0hat'), which needs none"
            ) from cause
    return torch.ldexp(found.to(gradient), exponent)


def require_graph(estimate: Tensor, who: str) -> None:
    """Raises ModelError where the `estimate` of a network, `who`, has no gradient with respect to its latents."""
    if not estimate.requires_grad:
        why = (
            "it runs in torch.inference_mode"
            if torch.is_inference(estimate)
            else "something turns gradients off (no_grad, detach, numpy, or a network quantised or exported for use)"
        )
        raise ModelError(f"{who} gives no gradient: {why}; take Guided(..., through='x0hat'), which needs none")


def check_gradients(pipe: Any) -> None:
    """Raises ModelError for a network of `pipe` whose weights are put away once it has run: a gradient needs them."""
    for name, network in vars(pipe).items():
        hook = _find_mover(network) if isinstance(network, torch.nn.Module) and not hasattr(network, "decode") else ""
        if hook:
            raise ModelError(
                f"{type(pipe).__name__} gives no gradient through its network: the weights of its {name} are put away "
                f"after each call ({hook}), and a gradient needs them again; call pipe.remove_all_hooks() and "
                "pipe.to(device), with batch= for less memory, or take Guided(..., through='x0hat'), which needs none"
            )


def _find_mover(network: torch.nn.Module) -> str:
    """The name of a hook that moves or converts the weights of `network` after each call; empty if there is none."""
    for module in network.modules():
        hook, own = getattr(module, "_hf_hook", None), getattr(module, "_diffusers_hook", None)
        hooks = [*getattr(hook, "hooks", [hook]), *getattr(own, "hooks", {}).values()]
        for each in hooks:
            if type(each).__name__ in MOVERS and getattr(each, "offload", True):
                return type(each).__name__
    return ""
