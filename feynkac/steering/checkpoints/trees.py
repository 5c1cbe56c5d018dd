"""Trees of plain values, arrays and tensors as JSON and tensors, and back: nothing that is read is ever run.

A tree holds None, bools, numbers, texts and bytes, arrays, tensors, and lists, tuples, sets and dicts of these. What
else a run keeps things under, such as potentials, stands there by the name that it has among known things.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote

KIND = "$"
"""The key of what is no plain JSON: an object with this key says what it stands for."""
_PLAIN = (bool, int, str, type(None))
_NATIVE = {np.dtype(kind) for kind in ("?", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8")}
"""What tensors hold, too; arrays of other types are kept as bytes."""


class Writer:
    """Writes one tree; `tensors` are its arrays and tensors by name, `known` names what else may stand in it."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names = {id(thing): name for name, thing in known.items()}
        self._written: dict[int, tuple[str, Any]] = {}
        """The name of each array, which is kept here so that its id stays its own."""

    def write(self, value: Any, where: str = "") -> Any:
        """`value` as JSON. Raises ArgumentError that names what in it cannot be written; `where` it stands."""
        if type(value) in _PLAIN:
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {KIND: "float", "of": str(value)}
        if id(value) in self._names:
            return {KIND: "known", "of": self._names[id(value)]}
        write = _WRITERS.get(type(value))
        if write is not None:
            return write(self, value, where)
        if isinstance(value, np.number | np.bool_):
            return {KIND: "number", "of": self.write(value.item(), where), "dtype": value.dtype.str}
        if isinstance(value, Tensor):
            return {KIND: "tensor", "of": self._keep(value, value)}
        raise ArgumentError(f"{where or 'what a run keeps'} is {quote(value, 80)}, which cannot be written")

    def _write_list(self, value: Any, where: str) -> Any:
        return [self.write(each, where) for each in value]

    def _write_tuple(self, value: Any, where: str) -> Any:
        return {KIND: "tuple", "of": self._write_list(value, where)}

    def _write_set(self, value: Any, where: str) -> Any:
        return {KIND: "set", "of": self._write_list(value, where)}

    def _write_dict(self, value: Any, where: str) -> Any:
        if all(type(key) is str for key in value) and KIND not in value:
            return {key: self.write(each, f"{where}.{key}" if where else key) for key, each in value.items()}
        return {
            KIND: "dict",
            "of": [[self.write(pair[0], where), self.write(pair[1], where)] for pair in value.items()],
        }

    def _write_bytes(self, value: bytes, where: str) -> Any:
        return {KIND: "bytes", "of": base64.b64encode(value).decode("ascii")}

    def _write_slice(self, value: slice, where: str) -> Any:
        return {KIND: "slice", "of": [value.start, value.stop]}

    def _write_array(self, value: Any, where: str) -> Any:
        if value.dtype.hasobject:
            raise ArgumentError(f"{where or 'what a run keeps'} is an array of objects, which cannot be written")
        raw = value if value.dtype in _NATIVE else np.frombuffer(value.tobytes(), np.uint8)
        name = self._keep(value, torch.from_numpy(np.array(raw, order="C")))
        return {KIND: "array", "of": name, "dtype": np.lib.format.dtype_to_descr(value.dtype), "shape": [*value.shape]}

    def _keep(self, thing: Any, tensor: Tensor) -> str:
        """The name of a tensor's copy; of what stands in the tree twice there is one."""
        if id(thing) not in self._written:
            name = f"t{len(self.tensors)}"
            self.tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            self._written[id(thing)] = name, thing
        return self._written[id(thing)][0]


_WRITERS: dict[type, Callable[[Writer, Any, str], Any]] = {
    list: Writer._write_list,
    tuple: Writer._write_tuple,
    set: Writer._write_set,
    dict: Writer._write_dict,
    bytes: Writer._write_bytes,
    slice: Writer._write_slice,
    np.ndarray: Writer._write_array,
}


class Reader:
    """Reads what `Writer` wrote, with its `tensors` and with the things that are `known` here."""

    def __init__(self, tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> None:
        self._tensors, self._known = tensors, known

    def read(self, value: Any) -> Any:
        """The tree. Raises KeyError, TypeError or ValueError for what no `Writer` wrote."""
        if isinstance(value, list):
            return [self.read(each) for each in value]
        if not isinstance(value, dict):
            return value
        if KIND not in value:
            return {key: self.read(each) for key, each in value.items()}
        return _READERS[value[KIND]](self, value)

    def _read_array(self, value: Any) -> Any:
        dtype = np.lib.format.descr_to_dtype(_as_tuples(value["dtype"]))
        if dtype.hasobject:
            raise ValueError("an array of objects")
        found = self._tensors[value["of"]].numpy()
        return (found if dtype in _NATIVE else found.view(dtype)).reshape(value["shape"])


def _as_tuples(descr: Any) -> Any:
    """The description of a type, whose fields JSON has as lists."""
    return descr if isinstance(descr, str) else [tuple(_as_tuples(part) for part in field) for field in descr]


_READERS: dict[str, Callable[[Reader, Any], Any]] = {
    "float": lambda reader, value: float(value["of"]),
    "known": lambda reader, value: reader._known[value["of"]],
    "number": lambda reader, value: np.dtype(value["dtype"]).type(reader.read(value["of"])),
    "tensor": lambda reader, value: reader._tensors[value["of"]],
    "tuple": lambda reader, value: tuple(reader.read(value["of"])),
    "set": lambda reader, value: set(reader.read(value["of"])),
    "dict": lambda reader, value: {reader.read(key): reader.read(each) for key, each in value["of"]},
    "bytes": lambda reader, value: base64.b64decode(value["of"], validate=True),
    "slice": lambda reader, value: slice(*value["of"]),
    "array": Reader._read_array,
}
