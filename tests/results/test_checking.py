"""Files of results from anywhere: what is in a field is what `Result` says, or the file is refused by the field."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest

import feynkac as fk


@pytest.fixture
def written(tiny_lm, tmp_path) -> tuple[Any, dict[str, Any]]:
    path = tmp_path / "result.json"
    task = tiny_lm("a", "b").prompt("a", max_tokens=4)
    fk.steer(task, fk.reward(len), particles=4, seed=0, ess_threshold=1.0).to_json(path)
    return path, json.loads(path.read_text())


def change(document: dict[str, Any], place: str, value: Any) -> bytes:
    document = copy.deepcopy(document)
    *way, last = place.split(".")
    inner = document
    for key in way:
        inner = inner[key]
    inner[last] = value
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("samples", 5, "samples is 5"),
        ("samples", [], "0 samples"),
        ("samples", ["a"], "1 samples, and log_weights of shape"),
        ("log_weights", [["0"]] * 4, "log_weights of shape"),
        ("log_weights", ["nan", 0, 0, 0], "weights are numbers below infinity"),
        ("log_weights", ["inf", 0, 0, 0], "weights are numbers below infinity"),
        ("log_weights", ["-inf"] * 4, "do not add up"),
        ("log_evidence", "-inf", "do not add up"),
        ("log_evidence", None, "log_evidence is None"),
        ("warnings", [1], "warnings is"),
        ("complete", 1, "complete is 1"),
        ("seed", 2**70, "seed is"),
        ("seed", True, "seed is True"),
        ("forwarded_tokens", 0.5, "forwarded_tokens is 0.5"),
        ("prompt", [1], "prompt is"),
        ("timing.total", "soon", "soon"),
        ("history.ess", [1.0], "not of one number of steps"),
        ("history.ess", ["nan"] * 4, "no number of particles"),
        ("history.ess", [1e50] * 4, "no number of particles"),
        ("history.rows", [[0, 1, 2, 9]] * 4, "a parent that there is not"),
        ("history.resampled", [9], "a step that there is not"),
        ("diagnostics.log_parts", [], "log_parts is empty"),
        ("diagnostics.tail", [1], "diagnostics.tail is"),
        ("diagnostics.spread", 1e300, "diagnostics.spread is"),
    ],
)  # fmt: skip
def test_a_field_of_another_kind_is_refused_by_its_name(written, place, value, told) -> None:
    path, document = written
    path.write_bytes(change(document, place, value))
    with pytest.raises(fk.ArgumentError, match=r"was not written by Result\.to_json of this version") as caught:
        fk.Result.from_json(path)
    assert told in str(caught.value)


def test_a_file_that_is_missing_cut_off_or_nested_without_end_is_refused(written, tmp_path) -> None:
    path, _ = written
    raw = path.read_bytes()
    for wrong in (raw[:-10], b"", b"[" * 200_000, b'{"feynkac": ' + b"9" * 5_000 + b"}", b"\xff" + raw, b"[]", b"null"):
        path.write_bytes(wrong)
        with pytest.raises(fk.ArgumentError, match="was not written by"):
            fk.Result.from_json(path)
    with pytest.raises(fk.ArgumentError, match="cannot be read"):
        fk.Result.from_json(tmp_path / "nowhere.json")
    with pytest.raises(fk.ArgumentError, match="cannot be read"):
        fk.Result.from_json(tmp_path)


def test_dead_and_infinite_numbers_are_read_as_they_were_written(tiny_lm, tmp_path) -> None:
    task = tiny_lm("a", "b").prompt("a", max_tokens=2)
    dead = fk.steer(task, fk.reward(lambda text: -math.inf), particles=2, seed=0, on_death="return")
    dead.to_json(tmp_path / "dead.json")
    again = fk.Result.from_json(tmp_path / "dead.json")
    assert again.log_evidence == -math.inf and again.warnings == dead.warnings and again.history == dead.history


def test_samples_that_hold_themselves_are_ranked_by_which_they_are() -> None:
    own: list[Any] = [1]
    own.append(own)
    import numpy as np

    history = fk.History([2.0], [0.0], [2], [], [[0, 1]], [[0.0, 0.0]])
    result = fk.Result([own, own], np.log([0.5, 0.5]), 0.0, None, history, fk.Timing(1.0, 0.5, 0.5))
    assert result.best is own and list(result.posterior().values()) == [1.0]
    with pytest.raises(fk.ArgumentError, match="cannot be written as JSON"):
        result.to_json("nowhere.json")
