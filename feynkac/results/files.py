"""Results as JSON: what is infinite or unknown is written as a text, samples as `plain.make_plain` has them."""

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
from feynkac.base.paths import read_path
from feynkac.base.writing import write_atomically
from feynkac.results.checking import check_result
from feynkac.results.history import History, Timing
from feynkac.results.plain import make_plain
from feynkac.smc.diagnostics import Diagnostics

if TYPE_CHECKING:
    from feynkac.results.result import Result

VERSION = 1
NUMBERS = ("log_weights", "log_evidence", "lower_bound", "log_probs", "diagnostics")
"""The fields whose numbers may be infinite or unknown; beside them are those of the history, and of tokens."""
WORDS = ("pieces", "killers")
"""The fields of the history that are texts."""


def write_result(result: Result, path: str | os.PathLike[str]) -> None:
    """See `Result.to_json`."""
    data = {each.name: getattr(result, each.name) for each in fields(result) if each.name != "reader"}
    data |= {name: asdict(data[name]) for name in ("timing", "diagnostics") if data[name] is not None}
    data |= {name: data[name].tolist() for name in ("log_weights", "log_probs") if data[name] is not None}
    data["history"] = {each.name: getattr(result.history, each.name) for each in fields(History)}
    data = map_fields(data, write_number)
    try:
        data["samples"] = make_plain(result.samples)
        text = json.dumps({"feynkac": VERSION, **data}, ensure_ascii=False, allow_nan=False, default=make_plain)
        encoded = text.encode("utf-8", "surrogatepass")
    except Exception as cause:  # of whatever kind objects of the user's raise as they are gone through
        shown = len(find_shape(result.samples[0])) > 1
        instead = "; result.save_images(folder) writes images, and an index" if shown else ""
        raise ArgumentError(f"the samples cannot be written as JSON: {cause}{instead}") from cause
    write_atomically(path, encoded)


def read_result(kind: type[Result], path: str | os.PathLike[str]) -> Result:
    """See `Result.from_json`."""
    path = read_path("path", path)
    try:
        data = read_fields(path)
        found = kind(**{**data, "history": History(**data["history"]), "timing": Timing(**data["timing"])})
        check_result(found)
    except OSError as cause:
        raise ArgumentError(f"{path} cannot be read: {cause}") from cause
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as cause:
        raise ArgumentError(f"{path} was not written by Result.to_json of this version: {cause}") from cause
    return found


def read_fields(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of a written result, history and timing still as dicts. Raises KeyError for what is none."""
    data = json.loads(Path(path).read_bytes().decode("utf-8", "surrogatepass"))
    if data.pop("feynkac") != VERSION:
        raise KeyError("feynkac")
    data = map_fields(data, read_number)
    data |= {
        name: np.array(data[name], np.float64) for name in ("log_weights", "log_probs") if data.get(name) is not None
    }
    found = data["diagnostics"]
    return data | {"diagnostics": None if found is None else Diagnostics(**found)}


def map_fields(data: dict[str, Any], convert: Callable[[Any], Any]) -> dict[str, Any]:
    """The fields of a result, with `convert` applied to each number that may be infinite or unknown."""
    told = data.get("token_log_probs")
    return {
        **data,
        **{name: map_numbers(data.get(name), convert) for name in NUMBERS},
        "history": {
            name: value if name in WORDS else map_numbers(value, convert) for name, value in data["history"].items()
        },
        "token_log_probs": told and [[(piece, convert(nats)) for piece, nats in line] for line in told],
    }


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
