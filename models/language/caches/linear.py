"""The linear layers of a twin by faster operators than torch's own, on processors that MKL serves less well.

MKL, through which torch multiplies in float32, has its fast kernels for Intel's processors. On AMD's a product of few
rows with a matrix of weights takes two to four times what reading the weights takes, and one of many rows a third more
than oneDNN, which torch has, too. The results differ in the last bits only, as they do between numbers of rows. The
choice depends on the processor and the number of rows, and never on a measurement, so that a seed repeats a run.
`Packing` is for those who give memory for time, on any processor.
"""

from __future__ import annotations

import platform
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from feynkac.base.errors import ModelError
from feynkac.models.language.editing.changes import count_changes

FEW = 4
"""Rows up to which weights times transposed rows is fastest: two rows take what reading the weights takes."""
FEWER = 2
"""The same beside packed weights."""
TYPICAL = 16
"""Rows that weights are packed for. With more or fewer the order is the same, but for a single one."""
_by_onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""A private operator of torch, hence its own way where it is missing."""


class Packing:
    """The weights of a model's linear layers once more, in the order in which oneDNN reads them.

    `model`: the user's. Its weights in float32 and bfloat16 are packed, tied ones once; what changes them in place
    afterwards, other than through `.data`, makes `is_current` False. Raises what `check_packing` does.
    """

    def __init__(self, model: Any) -> None:
        check_packing(model)
        weights = [layer.weight for layer in _list_layers(model) if _is_plain(layer.weight)]
        self._model, self._changes = model, count_changes(model)
        with torch.inference_mode():
            self._packed = {id(weight): (weight, _pack(weight)) for weight in dict.fromkeys(weights)}

    @property
    def is_current(self) -> bool:
        """Whether no weight has been changed since."""
        return self._changes == count_changes(self._model)

    def find(self, weight: Tensor) -> Tensor | None:
        """The packed form of a weight; None of any other tensor, such as an edited one."""
        found = self._packed.get(id(weight))
        return found[1] if found is not None and found[0] is weight else None


def check_packing(model: Any) -> None:
    """Raise ModelError where there is nothing to pack, or none to pack it."""
    if _by_onednn is None or not any(_is_plain(layer.weight) for layer in _list_layers(model)):
        raise ModelError(
            "packed=True is for models on the CPU with linear layers in float32 or bfloat16, and "
            f"{type(model).__name__} here has none that this torch can pack; leave packed out"
        )


def quicken(model: Any, packing: Packing | None = None) -> Any:
    """`model`, a twin, whose linear layers multiply as above where it pays; layers of other kinds stay as they are."""
    if _by_onednn is not None and (packing is not None or (is_amd() and torch.backends.mkl.is_available())):
        for layer in _list_layers(model):
            layer.__dict__["forward"] = partial(multiply, layer, packing)
    return model


def multiply(layer: torch.nn.Linear, packing: Packing | None, x: Tensor) -> Tensor:
    """(..., out) what `layer` makes of `x` (..., in)."""
    weight, bias = layer.weight, layer.bias
    if not _is_served(x, weight):
        return linear(x, weight, bias)
    packed = None if packing is None else packing.find(weight)
    single = weight.dtype == torch.float32
    if single and x.numel() <= (FEW if packed is None else FEWER) * x.shape[-1]:
        return _multiply_few(weight, bias, x)
    if packed is None and not single:
        return linear(x, weight, bias)
    assert _by_onednn is not None
    return _by_onednn(x, weight if packed is None else packed, bias, "none", [], "")


def _multiply_few(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    # One row twice: with a single one torch takes another path, which takes twice as long.
    columns = (torch.cat([rows, rows]) if len(rows) == 1 else rows).T
    out = torch.mm(weight, columns).T[: len(rows)].contiguous()
    if bias is not None:
        out += bias
    return out.view(*x.shape[:-1], -1)


def _list_layers(model: Any) -> list[torch.nn.Linear]:
    """The linear layers that multiply in torch's own way."""
    return [each for each in model.modules() if type(each) is torch.nn.Linear and "forward" not in vars(each)]


def _pack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), TYPICAL)


def _is_plain(weight: Tensor) -> bool:
    known = type(weight) in (Tensor, torch.nn.Parameter) and weight.device.type == "cpu"
    return known and weight.dtype in (torch.float32, torch.bfloat16) and weight.is_contiguous()


def _is_served(x: Tensor, weight: Tensor) -> bool:
    alike = _is_plain(weight) and x.dtype == weight.dtype and x.device.type == "cpu"
    return alike and x.numel() > 0 and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


@cache
def is_amd() -> bool:
    """Whether the processor is one of AMD's, as far as the system tells."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = platform.processor()
    return "AuthenticAMD" in told
