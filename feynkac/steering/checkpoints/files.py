"""A checkpoint on disk: one file of safetensors, replaced as a whole or not at all.

The record, which is JSON, is one of its tensors. A checksum over all of them tells a damaged file from a whole one;
nothing in a file can make its reader run anything.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from feynkac.base.errors import ArgumentError, FeynkacError, quote
from feynkac.base.writing import replace_file

FORMAT, VERSION = "feynkac checkpoint", "1"
RECORD = "record"
"""The name of the tensor that is the record."""


def write_file(path: Path, record: Any, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint (see `replace_file`). Raises FeynkacError where it cannot be written."""
    text = json.dumps(record, allow_nan=False).encode("utf-8")
    whole = {RECORD: torch.from_numpy(np.frombuffer(text, np.uint8).copy()), **tensors}
    about = {"format": FORMAT, "version": VERSION, "checksum": _sum_up(whole)}
    try:
        with replace_file(path) as file:
            save_file(whole, file.name, about)  # opens it by its name, and makes no copy of it in memory
    except Exception as cause:  # of the file system, and of the library
        why = cause.__cause__ if isinstance(cause, ArgumentError) else cause
        raise FeynkacError(
            f"the checkpoint '{path}' could not be written: {type(why).__name__}: {why}; what was there is still "
            "there, and fk.resume goes on from it"
        ) from cause


def read_file(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """The record of a checkpoint, and its tensors. Raises ArgumentError for a file that is none, or is damaged."""
    if not os.path.isfile(path):
        raise ArgumentError(f"there is no checkpoint '{path}'; give the path that was given as checkpoint=")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except Exception as cause:  # whatever the library thinks of it
        raise _refuse(path, str(cause).strip()) from cause
    if about.get("format") != FORMAT:
        raise _refuse(path, "it says that it is something else")
    if about.get("version") != VERSION:
        raise ArgumentError(
            f"the checkpoint '{path}' has format {about.get('version')}, and this feynkac reads format {VERSION}; go "
            "on with the release that wrote it"
        )
    if about.get("checksum") != _sum_up(tensors):
        raise _refuse(path, "its checksum is wrong")
    try:
        record = json.loads(tensors.pop(RECORD).numpy().tobytes())
    except (KeyError, ValueError) as cause:
        raise _refuse(path, f"it has no record ({quote(cause)})") from cause
    return record, tensors


def _sum_up(tensors: Mapping[str, Tensor]) -> str:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode(), total)
        total = zlib.crc32(memoryview(tensors[name].reshape(-1).view(torch.uint8).numpy()), total)  # type: ignore[arg-type]
    return f"{total:08x}"


def _refuse(path: Path, why: str) -> ArgumentError:
    return ArgumentError(f"'{path}' is no checkpoint of feynkac, or it is damaged: {why}")
