"""A result in a notebook and as data frames."""

from __future__ import annotations

import dataclasses
import math
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import feynkac as fk

EVIL = "</td><script>alert(1)</script>\x1b[2J\x1b]0;x\x07\u202eabc\x00<img src=x onerror=alert(1)>&amp;"


def make_result(**changes) -> fk.Result:
    values = {
        "samples": ["x", "y", "x", "z"],
        "log_weights": np.log([0.1, 0.3, 0.3, 1e-300]) + 2.0,
        "log_evidence": 2.0 + math.log(0.7),
        "log_evidence_se": 0.1,
        "history": fk.History([4.0, 2.5], [0.0, 1.0], [4, 3], [1], [[0, 1, 2, 3], [0, 1, 1, 3]]),
        "timing": fk.Timing(2.0, 1.0, 0.5),
        "token_log_probs": [[("x", -0.5), ("", -1.0)], [("y", -2.0)], [("x", -0.5)], [("z", -9.0)]],
        "log_probs": np.array([-1.5, -2.0, -0.5, -9.0]),
    }
    return fk.Result(**{**values, **changes})


class Reader(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.said = list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def test_a_notebook_shows_posterior_evidence_and_warnings() -> None:
    page = read(make_result(warnings=["look here"])._repr_html_())
    said = " ".join(page.said)
    for part in ("57.1%", "42.9%", "log evidence 1.64 nats", "effective sample size", "look here"):
        assert part in said


def test_nothing_that_a_model_writes_is_markup_in_a_notebook() -> None:
    tame = read(make_result(warnings=["w"])._repr_html_())
    wild = make_result(samples=[EVIL, "y", EVIL, "z"], warnings=[EVIL])
    page = read(wild._repr_html_())
    assert page.tags == tame.tags
    shown = "".join(page.said)
    assert "<script>alert(1)</script>" in shown and "\\x1b[2J" in shown and "\\u202e" in shown
    assert not any(char in wild._repr_html_() for char in "\x1b\x07\x00\u202e")


@pytest.mark.parametrize("changes", [{"samples": [np.zeros((3, 4, 4))] * 4}, {"samples": [{"a": 1}] * 4}])
def test_a_notebook_shows_samples_of_other_kinds(changes) -> None:
    assert "log evidence" in make_result(**changes)._repr_html_()


def test_a_notebook_shows_a_dead_result_and_many_samples() -> None:
    dead = make_result(log_weights=np.full(4, -np.inf), log_evidence=-math.inf)
    assert "-inf nats" in dead._repr_html_()
    many = make_result(samples=list(range(40)), log_weights=np.zeros(40))
    assert "and 30 more" in many._repr_html_()


def test_a_frame_of_samples_has_a_row_a_sample() -> None:
    frame = make_result().to_pandas()
    assert frame["sample"].tolist() == ["x", "y", "x", "z"] and frame.index.name == "row"
    np.testing.assert_allclose(frame["weight"].sum(), 1.0)
    assert frame["log_prob"].tolist() == [-1.5, -2.0, -0.5, -9.0]
    assert "log_prob" not in make_result(log_probs=None).to_pandas()


def test_a_frame_keeps_samples_whole_that_are_lists_or_arrays() -> None:
    samples = [[1, 2], np.zeros((2, 2)), {"a": 1}, None]
    kept = make_result(samples=samples).to_pandas()["sample"].tolist()
    assert all(a is b for a, b in zip(kept, samples, strict=True))


def test_frames_of_tokens_and_of_steps() -> None:
    tokens = make_result().to_pandas("tokens")
    assert tokens[["row", "position", "token", "log_prob"]].values.tolist()[:3] == [
        [0, 0, "x", -0.5], [0, 1, "", -1.0], [1, 0, "y", -2.0],
    ]  # fmt: skip
    steps = make_result().to_pandas("steps")
    assert steps["resampled"].tolist() == [False, True] and steps["ess"].tolist() == [4.0, 2.5]


def test_a_frame_that_cannot_be_made_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(fk.ArgumentError, match="tells of no tokens"):
        dataclasses.replace(make_result(), token_log_probs=None).to_pandas("tokens")
    with pytest.raises(fk.ArgumentError, match="choose one of 'samples', 'tokens', 'steps'"):
        make_result().to_pandas("rows")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(fk.FeynkacError, match=r"pip install 'feynkac\[pandas\]'"):
        make_result().to_pandas()
