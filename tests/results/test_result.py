"""Results: what they say, and that they survive a file."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest

from feynkac import ArgumentError, History, Result, Timing


def result(**changes) -> Result:
    values = {
        "samples": ["x", "y", "x", "z"],
        "log_weights": np.log([0.1, 0.3, 0.3, 1e-300]) + 2.0,
        "log_evidence": 2.0 + math.log(0.7),
        "log_evidence_se": 0.1,
        "history": History([4.0, 2.5], [0.0, -math.inf], [4, 3], [1], [[0, 1, 2, 3], [0, 1, 1, 3]]),
        "timing": Timing(2.0, 1.0, 0.5),
        "forwarded_tokens": 100,
        "seed": 7,
    }
    return Result(**{**values, **changes})


def test_posterior_merges_equal_samples_and_is_sorted() -> None:
    assert list(result().posterior().items())[:2] == [
        ("x", pytest.approx(4 / 7)),
        ("y", pytest.approx(3 / 7)),
    ]
    assert result().best == "x"
    assert result().expectation(lambda x: x == "y") == pytest.approx(3 / 7)
    np.testing.assert_allclose(result().weights.sum(), 1.0)


def test_weights_survive_extreme_log_weights() -> None:
    """exp of these underflows; the posterior must not."""
    low = result(log_weights=np.array([-2000.0, -2001.0, -np.inf, -2000.0]))
    assert sum(low.posterior().values()) == pytest.approx(1.0) and "x" in low.posterior()


def test_sampling_follows_the_weights() -> None:
    draws = result().sample(20_000, seed=0)
    share = draws.count("x") / 20_000
    assert abs(share - 4 / 7) < 5 * math.sqrt(4 / 7 * 3 / 7 / 20_000)
    assert result().sample(seed=1) in {"x", "y"}


def test_of_equal_rewards_the_sample_drawn_most_often_is_best() -> None:
    def best(ahead: float) -> str:
        """Of one `x`, ahead of two `y` by so many nats."""
        weights = np.array([0.0, -ahead, -1.0, -ahead])
        return result(samples=["x", "y", "z", "y"], log_weights=weights, algorithm="best_of_n").best

    assert best(0.0) == "y"
    assert best(5e-5) == "y"  # within what float32 logits tell apart
    assert best(2e-4) == "x"


def test_summary_says_what_matters(capsys) -> None:
    result(warnings=["look here"]).show(rows=1)
    shown = capsys.readouterr().out
    for part in (
        "57.1%  x",
        "and 2 more",
        "1.64 nats, at least -1.35 (95 % sure)",
        "of 4",
        "resampled at 1 of 2",
        "50 tokens/s",
        "look here",
    ):
        assert part in shown


def test_json_round_trip(tmp_path) -> None:
    path = tmp_path / "result.json"
    result().to_json(path)
    back = Result.from_json(path)
    assert back.samples == result().samples and back.history == result().history and back.timing == result().timing
    np.testing.assert_array_equal(back.log_weights, result().log_weights)
    assert back.seed == 7 and back.log_evidence == result().log_evidence


def test_json_of_a_dead_result(tmp_path) -> None:
    dead = result(log_weights=np.full(4, -np.inf), log_evidence=-math.inf, log_evidence_se=None)
    dead.to_json(tmp_path / "dead.json")
    back = Result.from_json(tmp_path / "dead.json")
    assert back.log_evidence == -math.inf and (back.log_weights == -np.inf).all() and back.log_evidence_se is None


def test_what_json_cannot_hold(tmp_path) -> None:
    with pytest.raises(ArgumentError, match="JSON"):
        result(samples=[object()] * 4).to_json(tmp_path / "no.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ArgumentError, match="not written by"):
        Result.from_json(tmp_path / "other.json")


def test_samples_are_read_as_json_where_they_have_weight() -> None:
    texts = result(samples=["[1]", "2", '{"a": 1}', "{"], log_weights=np.array([0.0, 0.0, 0.0, -np.inf]))
    assert texts.parsed() == [[1], 2, {"a": 1}, None]
    assert dataclasses.replace(texts, reader=len).parsed() == [3, 1, 8, None]
    with pytest.raises(ArgumentError, match="was json_schema"):
        result().parsed()


def test_a_reader_is_not_written_to_files(tmp_path) -> None:
    result(reader=lambda text: text).to_json(tmp_path / "r.json")
    assert Result.from_json(tmp_path / "r.json").reader is None


def test_a_history_keeps_numbers_that_have_no_digits_behind_the_point() -> None:
    told = {"ess": [], "log_evidence": [], "unique_ancestors": [], "resampled": []}
    made = History.from_arrays({"rows": [], "levels": [np.array([1e308, -np.inf, 0.12345678, -1e305])]}, **told)
    assert made.levels == [[1e308, -math.inf, 0.123457, -1e305]]


def test_a_history_made_of_arrays_is_that_made_of_lists_whenever_it_is_asked() -> None:
    nats, rows = np.array([0.12345678, -np.inf, 2.0]), np.array([0, 0, 2])
    told = {"ess": [1.0], "log_evidence": [0.5], "unique_ancestors": [2], "resampled": []}
    arrays = {"rows": [rows], "levels": [nats], "log_probs": []}

    def make() -> History:
        return History.from_arrays(arrays, **told)

    wanted = History(**told, rows=[[0, 0, 2]], levels=[[0.123457, -math.inf, 2.0]])
    asked = make()
    assert asked.levels is asked.levels  # which may be written to
    for history in (make(), asked, pickle.loads(pickle.dumps(make())), copy.deepcopy(asked), copy.copy(make())):
        assert history == wanted and repr(history) == repr(wanted)
    assert dataclasses.replace(make(), ess=[2.0]) == dataclasses.replace(wanted, ess=[2.0])
    assert all(type(each) is int for each in make().rows[0])
    with pytest.raises(AttributeError, match="no attribute 'level'"):
        make().level  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
