"""Results as JSON: what is infinite or unknown is written as a text, samples as `ranking.unpack` has them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.base.errors import ArgumentError
from feynkac.base.numbers import find_shape
from feynkac.results.ranking import unpack
from feynkac.smc.diagnostics import Diagnostics

if TYPE_CHECKING:
    from feynkac.results.result import Result

VERSION = 1
NUMBERS = ("log_weights", "log_evidence", "lower_bound", "history", "diagnostics")
"""The fields whose numbers may be infinite or unknown."""


def write_result(result: Result, path: str | os.PathLike[str]) -> None:
    """See `Result.to_json`."""
    data = {each.name: getattr(result, each.name) for each in fields(result) if each.name != "reader"}
    data |= {name: asdict(data[name]) for name in ("history", "timing", "diagnostics") if data[name] is not None}
    data["log_weights"] = result.log_weights.tolist()
    data |= {name: map_numbers(data[name], write_number) for name in NUMBERS}
    try:
        text = json.dumps({"feynkac": VERSION, **data}, ensure_ascii=False, allow_nan=False, default=unpack)
        encoded = text.encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError) as cause:
        shown = len(find_shape(result.samples[0])) > 1
        instead = "; result.save_images(folder) writes images, and an index" if shown else ""
        raise ArgumentError(f"the samples cannot be written as JSON: {cause}{instead}") from cause
    Path(path).write_bytes(encoded)


def read_fields(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of a written result, history and timing still as dicts. Raises KeyError for what is none."""
    data = json.loads(Path(path).read_bytes().decode("utf-8", "surrogatepass"))
    if data.pop("feynkac") != VERSION:
        raise KeyError("feynkac")
    data |= {name: map_numbers(data.get(name), read_number) for name in NUMBERS}
    data["log_weights"] = np.array(data["log_weights"], np.float64)
    found = data["diagnostics"]
    return data | {"diagnostics": None if found is None else Diagnostics(**found)}


def map_numbers(value: Any, convert: Callable[[Any], Any]) -> Any:
    """`value` with `convert` applied to whatever stands in its lists and dicts."""
    if isinstance(value, list):
        return [map_numbers(each, convert) for each in value]
    if isinstance(value, dict):
        return {name: map_numbers(each, convert) for name, each in value.items()}
    return convert(value)


def write_number(x: Any) -> Any:
    """What JSON has no number for, as a text."""
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x


def read_number(x: Any) -> Any:
    """The number that a text stands for."""
    return float(x) if isinstance(x, str) else x
