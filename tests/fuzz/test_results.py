"""Files of results, changed in every way, and samples of every kind, written and read."""

from __future__ import annotations

import copy
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from guard import fuzz, guarded
from hypothesis import given, strategies as st
from values import HOSTILE, JSON

import feynkac as fk
from feynkac.results.plain import make_plain

WRONG = JSON | st.sampled_from(
    [
        10**400,
        -(10**400),
        "nan",
        "inf",
        "-inf",
        "1e999",
        "9" * 5_000,
        [],
        {},
        [[]],
        [None],
        ["a"],
        [1e308] * 4,
        -1,
        2**63,
        "\ud800",
        True,
    ]
)
RAW = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "9" * 5_000,
    "[" * 100_000,
    '{"a":' * 100_000,
    '"\\ud800"',
    "\x00",
    "",
    "}",
    '"',
    "1" + "0" * 400,
]


@pytest.fixture(scope="session")
def written(tiny_lm, tmp_path_factory):
    """What `to_json` writes of some results, read as JSON."""
    folder, lm = tmp_path_factory.mktemp("results"), tiny_lm("a", "b")
    task, tilt = lm.prompt("a", max_tokens=4), fk.reward(len)
    found = [
        fk.steer(task, tilt, particles=4, islands=2, seed=0, ess_threshold=1.0),
        fk.steer(task, fk.regex("a*"), particles=4, algorithm="gibbs", sweeps=3, seed=0),
        fk.steer(task, fk.reward(lambda text: -math.inf), particles=2, seed=0, on_death="return"),
        fk.steer(task, fk.choices(["a", "b"]), algorithm="exact"),
        fk.steer(task, tilt, particles=4, algorithm="best_of_n", seed=0),
    ]
    for i, result in enumerate(found):
        result.to_json(folder / f"{i}.json")
    return folder, [json.loads((folder / f"{i}.json").read_text()) for i in range(len(found))]


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a JSON document, whose lists are looked into at their first two entries."""
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:2] if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in _places(each, (*path, key)))]


def _change(document: Any, place: tuple[Any, ...], how: str, value: Any) -> Any:
    if not place:
        return value
    *way, last = place
    inner = document
    for key in way:
        inner = inner[key]
    if how == "remove":
        del inner[last]
    elif how == "twice":
        inner.insert(last, inner[last]) if isinstance(inner, list) else inner.__setitem__(f"{last}2", inner[last])
    else:
        inner[last] = value
    return document


def use(result: Any) -> None:
    """Whatever can be asked of a result."""
    with tempfile.TemporaryDirectory() as folder:
        for act in (
            lambda: result.summary(), lambda: repr(result), lambda: result.texts, lambda: result.weights,
            lambda: result.ess,
            lambda: result.log_evidence_interval(), lambda: result.best, lambda: result.posterior(),
            lambda: result.sample(2, seed=0),
            lambda: result.expectation(lambda x: 1.0), lambda: result.parsed(), lambda: result.preferences(result),
            lambda: result.to_json(Path(folder, "again.json")),
            lambda: result.show(),
        ):  # fmt: skip
            with guarded():
                act()


@fuzz(share=0.1, sample=25)
@given(st.data())
def test_changed_files_give_a_result_that_can_be_used_or_an_error_of_ours(written, data) -> None:
    folder, documents = written
    document = copy.deepcopy(data.draw(st.sampled_from(documents)))
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(_places(document)), label="place")
        how, value = data.draw(st.sampled_from(["set", "remove", "twice"])), data.draw(WRONG, label="value")
        document = _change(document, place, how, copy.deepcopy(value))
    path = folder / "changed.json"
    path.write_bytes(json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    result = None
    with guarded():
        result = fk.Result.from_json(path)
    if result is not None:
        use(result)


@fuzz(share=0.04, sample=12)
@given(st.data())
def test_bytes_that_are_cut_or_changed_are_read_or_refused(written, data) -> None:
    folder, documents = written
    raw = json.dumps(data.draw(st.sampled_from(documents))).encode()
    at = data.draw(st.integers(0, len(raw)))
    cut = data.draw(st.integers(0, 40)) if data.draw(st.booleans()) else len(raw)
    put = data.draw(st.binary(max_size=4) | st.sampled_from([piece.encode("utf-8", "surrogatepass") for piece in RAW]))
    (folder / "bytes.json").write_bytes(raw[:at] + put + raw[at + cut :])
    result = None
    with guarded():
        result = fk.Result.from_json(folder / "bytes.json")
    if result is not None:
        use(result)


@fuzz(share=0.05, sample=15)
@given(st.lists(JSON | st.text(max_size=10), min_size=1, max_size=5), st.data())
def test_what_is_written_is_read_again(tmp_path_factory, samples, data) -> None:
    weights = data.draw(st.lists(st.floats(-50, 50) | st.just(-math.inf), min_size=len(samples), max_size=len(samples)))
    result = _make(samples, weights)
    path = tmp_path_factory.getbasetemp() / "again.json"
    result.to_json(path)
    again = fk.Result.from_json(path)
    plain = [make_plain(sample) for sample in samples]  # infinities and nan are texts: JSON has no numbers for them
    assert repr(again.samples) == repr(plain) and again.log_weights.tolist() == result.log_weights.tolist()
    assert again == again and again.history == result.history and again.warnings == result.warnings
    use(again)


@fuzz(share=0.03, sample=20)
@given(st.lists(HOSTILE, min_size=1, max_size=3))
def test_samples_of_every_kind_are_shown_ranked_and_written_or_refused(samples) -> None:
    use(_make([each.value for each in samples], [0.0] * len(samples)))


def _make(samples: list[Any], weights: list[float]) -> fk.Result:
    n = len(samples)
    log_z = float(np.logaddexp.reduce(weights))
    history = fk.History([float(n)], [log_z], [n], [], [list(range(n))], [[0.0] * n])
    return fk.Result(samples, np.array(weights), log_z, None, history, fk.Timing(1.0, 0.5, 0.5), warnings=["one \x1b"])
