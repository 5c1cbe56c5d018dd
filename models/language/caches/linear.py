"""The linear layers of a twin by faster operators than torch's own, on processors that MKL serves less well.

MKL, through which torch multiplies in float32, has its fast kernels for Intel's processors. On AMD's a product of few
rows with a matrix of weights takes two to four times what reading the weights takes, and one of many rows a third more
than oneDNN, which torch has, too. The results differ in the last bits only, as they do between numbers of rows. The
choice depends on the processor and the number of rows, and never on a measurement, so that a seed repeats a run.
"""

from __future__ import annotations

import platform
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

FEW = 4
"""Rows up to which weights times transposed rows is fastest: two rows take what reading the weights takes."""
_by_onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""A private operator of torch, hence its own way where it is missing."""


def quicken(model: Any) -> Any:
    """`model`, a twin, whose linear layers multiply as above where it pays; layers of other kinds stay as they are."""
    if is_amd() and torch.backends.mkl.is_available() and _by_onednn is not None:
        for module in model.modules():
            if type(module) is torch.nn.Linear and "forward" not in vars(module):
                module.forward = partial(multiply, module)
    return model


def multiply(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    """(..., out) what `layer` makes of `x` (..., in)."""
    weight, bias = layer.weight, layer.bias
    if not _is_served(x, weight):
        return linear(x, weight, bias)
    if x.numel() > FEW * x.shape[-1]:
        assert _by_onednn is not None
        return _by_onednn(x, weight, bias, "none", [], "")
    rows = x.reshape(-1, x.shape[-1])
    # One row twice: with a single one torch takes another path, which takes twice as long.
    columns = (torch.cat([rows, rows]) if len(rows) == 1 else rows).T
    out = torch.mm(weight, columns).T[: len(rows)].contiguous()
    if bias is not None:
        out += bias
    return out.view(*x.shape[:-1], -1)


def _is_served(x: Tensor, weight: Tensor) -> bool:
    plain = type(weight) in (Tensor, torch.nn.Parameter) and weight.is_contiguous()
    alike = plain and x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    return alike and x.numel() > 0 and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


@cache
def is_amd() -> bool:
    """Whether the processor is one of AMD's, as far as the system tells."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = platform.processor()
    return "AuthenticAMD" in told
