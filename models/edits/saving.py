"""Edits as files: numbers as safetensors, the rest as JSON in its header. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list
from feynkac.base.paths import read_path
from feynkac.models.edits.activations import Add, Affine, ProjectOut
from feynkac.models.edits.adapters import Adapter
from feynkac.models.edits.attention import BiasAttention, Emphasise
from feynkac.models.edits.depth import SkipLayers
from feynkac.models.edits.files import write_tensors
from feynkac.models.edits.scopes import Steps
from feynkac.models.edits.weights import ScaleHeads, Shift
from feynkac.models.language.editing import Edit, Span

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (Adapter, Add, Affine, BiasAttention, Emphasise, ProjectOut, ScaleHeads, Shift, SkipLayers)
}
_VALUES: dict[str, type[Any]] = {"Span": Span, "Steps": Steps}
_HEADER = "feynkac edits"


def save_edits(edits: Edit | Iterable[Edit], path: str | Path) -> Path:
    """Write edits, such as `edited.edits`, to one safetensors file; returns its path.

    Raises ArgumentError for what a file cannot hold: functions (a schedule, a probe, one of your own), autoencoders,
    and adapters that were not read from a folder.
    """
    target = read_path("path", path)
    given = [edits] if isinstance(edits, Edit) else as_list(edits)
    if given is None or not all(isinstance(edit, Edit) for edit in given):
        raise ArgumentError(f"edits is {quote(edits)}; give an edit, or a list of them, such as edited.edits")
    tensors: dict[str, Tensor] = {}
    written = [_write(edit, tensors) for edit in given]
    for edit, record in zip(given, written, strict=True):
        if not isinstance(record, dict) or record.get("kind") not in _KINDS:
            raise ArgumentError(f"{quote(edit)} cannot be saved; {', '.join(_KINDS)} can be")
    write_tensors(target, tensors, {_HEADER: json.dumps(written)})
    return target


def holds_edits(path: str | Path) -> bool:
    """Whether a file is one that `save_edits` wrote; False for what cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return _HEADER in (file.metadata() or {})
    except (OSError, SafetensorError, ValueError):
        return False


def load_edits(path: str | Path) -> tuple[Edit, ...]:
    """The edits of a file, for `lm.edited(*load_edits(path))`. Raises ArgumentError for a file that holds none."""
    from safetensors import SafetensorError, safe_open

    path = read_path("path", path)
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
        if header is None:
            raise ArgumentError(
                f"'{path}' is a safetensors file without edits, which save_edits writes; vectors alone are read by "
                "Direction.load"
            )
        return tuple(_read(record, tensors) for record in json.loads(header))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as cause:
        raise ArgumentError(f"cannot read edits from '{path}': {cause}") from cause


def _write(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        return _write(torch.from_numpy(np.array(value)), tensors)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, range):
        return {"range": [value.start, value.stop]}
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and type(value).__name__ in {**_KINDS, **_VALUES}:
        own = {part.name: _write(getattr(value, part.name), tensors) for part in fields(value)}
        return {"kind": type(value).__name__, "fields": own}
    if isinstance(value, Mapping):
        return {"pairs": [[_write(key, tensors), _write(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_write(item, tensors) for item in value]}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_write(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ArgumentError(f"{quote(value)} cannot be saved with an edit: only numbers, texts and tensors can")


def _read(record: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(record, list):
        return [_read(item, tensors) for item in record]
    if not isinstance(record, dict):
        return record
    if "tensor" in record:
        return tensors[record["tensor"]]
    if "range" in record:
        return range(*record["range"])
    if "pairs" in record:
        return {_read(key, tensors): _read(item, tensors) for key, item in record["pairs"]}
    if "tuple" in record:
        return tuple(_read(item, tensors) for item in record["tuple"])
    kind = {**_KINDS, **_VALUES}[record["kind"]]
    return kind(**{name: _read(value, tensors) for name, value in record["fields"].items()})
