"""Directions as files: our own as safetensors, and those of repeng (gguf) and steering-vectors (pt).

A file is read as numbers and text only: nothing in it is run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote, shorten
from feynkac.base.extras import needing
from feynkac.base.paths import check_file, read_path
from feynkac.base.writing import write_atomically
from feynkac.models.edits.directions import Direction, read_direction

_KEY = "feynkac"
"""The entry of our files' metadata."""


def save_direction(direction: Direction, path: str | os.PathLike[str]) -> None:
    """Write a direction to a `.safetensors` file: a tensor "layer.N" for each layer, and in metadata what is known."""
    target = read_path("path", path)
    if target.suffix != ".safetensors":
        raise ArgumentError(f"directions are saved as .safetensors files, and the path is '{target}'")
    direction = read_direction(direction)
    about = {"of": direction.of, "method": direction.method, "separation": {**direction.separation}}
    tensors = {f"layer.{layer}": vector for layer, vector in direction.items()}
    write_tensors(target, tensors, {_KEY: json.dumps(about)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write a whole file of safetensors, or leave what was there. Raises ArgumentError where it cannot be written."""
    from safetensors.torch import save

    check_file(path, f"'{path}'")
    apart = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}  # the format's wish
    write_atomically(path, save(apart, dict(about)))


def load_direction(path: str | os.PathLike[str]) -> Direction:
    """Read the vectors of a file, by its ending.

    `.safetensors`: as `save_direction` writes it. `.gguf`: a control vector of repeng or llama.cpp, "direction.N" for
    each layer; needs the package gguf. `.pt`: {layer: vector}, or {"layer_activations": {layer: vector}}, as tensors of
    torch. Raises ArgumentError for a file that cannot be read, one of another kind, and one that would run code.
    """
    source = read_path("path", path)
    kinds: dict[str, Callable[[Path], Direction]] = {
        ".safetensors": _load_safetensors, ".gguf": _load_gguf, ".pt": _load_pt, ".pth": _load_pt,
    }  # fmt: skip
    if source.suffix not in kinds:
        raise ArgumentError(f"'{source}' ends in none of {', '.join(kinds)}; no other files of vectors are read")
    if not os.path.isfile(source):
        raise ArgumentError(f"there is no file '{source}'")
    return kinds[source.suffix](source)


def _load_safetensors(path: Path) -> Direction:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, ValueError) as cause:
        raise ArgumentError(f"'{path}' cannot be read as safetensors: {cause}") from cause
    share = {int(layer): float(value) for layer, value in about.get("separation", {}).items()}
    return Direction(
        _by_layer(tensors, "layer", path), share, about.get("of", "residual"), about.get("method", "given")
    )


def _load_gguf(path: Path) -> Direction:
    with needing("demo", f"'{path}' is read by gguf"):
        from gguf import GGUFReader, dequantize
    from torch import from_numpy

    try:
        tensors = {tensor.name: from_numpy(_read_numbers(tensor, dequantize)) for tensor in GGUFReader(path).tensors}
    except Exception as cause:  # of whatever kind gguf finds a file that is none
        raise ArgumentError(f"'{path}' cannot be read as gguf: {cause}") from cause
    return Direction(_by_layer(tensors, "direction", path), method="control vector")


def _read_numbers(tensor: Any, dequantize: Callable[..., NDArray[Any]]) -> NDArray[Any]:
    """A tensor of gguf, whose reader gives bytes for each kind that numpy does not have: bfloat16, and all blocks."""
    return dequantize(tensor.data, tensor.tensor_type) if tensor.data.dtype == np.uint8 else tensor.data.copy()


def _load_pt(path: Path) -> Direction:
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as cause:
        raise ArgumentError(
            f"'{path}' holds more than tensors, and would run code; save the vectors alone, as in "
            "torch.save(steering_vector.layer_activations, path)"
        ) from cause
    except (RuntimeError, EOFError, OSError) as cause:
        raise ArgumentError(f"'{path}' cannot be read as a file of torch: {cause}") from cause
    inner = found.get("layer_activations", found) if isinstance(found, Mapping) else found
    if not isinstance(inner, Mapping) or not all(
        isinstance(layer, int) and isinstance(vector, Tensor) for layer, vector in inner.items()
    ):
        raise ArgumentError(f"'{path}' holds {quote(found)}; it must be {{layer: vector}}")
    return Direction(inner, method="steering vector")


def _by_layer(tensors: Mapping[str, Any], prefix: str, path: Path) -> dict[int, Any]:
    layers = {name: re.fullmatch(rf"{prefix}\.(\d+)", name) for name in tensors}
    if not tensors or not all(layers.values()):
        raise ArgumentError(f"'{path}' holds {shorten(str(sorted(tensors)))}; its tensors must be '{prefix}.0', ...")
    return {int(found[1]): tensors[name] for name, found in layers.items() if found is not None}
