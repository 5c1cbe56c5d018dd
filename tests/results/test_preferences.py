"""Preferences: which pairs with what weights, in the form that TRL reads, and what DPO makes of them."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest

import feynkac as fk
from feynkac import ArgumentError, History, Result, Timing
from feynkac.base.errors import AllParticlesDied


def result(samples, log_weights, **changes) -> Result:
    values = {
        "log_evidence": 0.0, "log_evidence_se": 0.1, "history": History([1.0], [0.0], [1], [], []),
        "timing": Timing(2.0, 1.0, 0.5), "prompt": "Say", "algorithm": "smc",
    }  # fmt: skip
    return Result(samples=samples, log_weights=np.array(log_weights), **{**values, **changes})


def weigh(rows) -> dict[tuple[str, str], float]:
    return {(row["chosen"], row["rejected"]): row["weight"] for row in rows}


def test_pairs_are_weighted_by_target_and_base(tiny_lm) -> None:
    """All texts of a tiny model: P(chosen) P(rejected) of two independent draws, given that they differ."""
    lm = tiny_lm("a", "b", seed=3)
    task = lm.prompt("a", max_tokens=2)
    texts = ["", "a", "b", "aa", "ab", "ba", "bb"]
    p = np.exp(lm.score(task, texts))
    target = p * np.exp([2.0 * text.count("b") for text in texts])
    target /= target.sum()
    reward = fk.reward(lambda text: 2.0 * text.count("b"))
    rows = fk.steer(task, reward, algorithm="exact").preferences(fk.steer(task, algorithm="exact"))
    expected = np.outer(target, p / p.sum())
    np.fill_diagonal(expected, 0.0)
    expected /= expected.sum()
    found = weigh(rows)
    assert len(rows) == 42 and {row["prompt"] for row in rows} == {"a"}
    for i, x in enumerate(texts):
        for j, y in enumerate(texts):
            assert found.get((x, y), 0.0) == pytest.approx(expected[i, j], abs=1e-6)


@pytest.mark.parametrize("beta", [1.0, 0.25])
def test_the_target_is_where_dpo_ends(beta) -> None:
    """The gradient of DPO's weighted loss in the policy's log-ratios is 0 at r / beta, and only there."""
    texts, reward = ["x", "y", "z"], np.array([0.0, 1.3, -0.7])
    p = np.array([0.5, 0.2, 0.3])
    target, base = result(texts, np.log(p) + reward), result(texts, np.log(p))

    def slope(ratio):
        total = np.zeros(3)
        for (x, y), weight in weigh(target.preferences(base)).items():
            i, j = texts.index(x), texts.index(y)
            push = weight * beta / (1.0 + math.exp(beta * (ratio[i] - ratio[j])))
            total[i] += push
            total[j] -= push
        return total

    np.testing.assert_allclose(slope(reward / beta), 0.0, atol=1e-15)
    assert np.abs(slope(np.zeros(3))).max() > 0.01


def test_best_of_n_holds_its_own_base() -> None:
    """Each text is rejected as often as it was drawn, also where it has no weight, and chosen by its weight."""
    found = weigh(result(["x", "y", "y", "z"], [0.0, 1.0, 1.0, -np.inf], algorithm="best_of_n").preferences())
    w = np.array([1.0, 2.0 * math.e]) / (1.0 + 2.0 * math.e)
    raw = {("x", "y"): w[0] / 2, ("x", "z"): w[0] / 4, ("y", "x"): w[1] / 4, ("y", "z"): w[1] / 4}
    total = sum(raw.values())
    assert found == {pair: pytest.approx(weight / total) for pair, weight in raw.items()}
    # the odds of the two orders are those of the log-weights
    assert found["y", "x"] / found["x", "y"] == pytest.approx(math.e)


def test_drawn_pairs_come_as_often_as_they_weigh() -> None:
    """Of 10,000 draws each count is within 5 standard deviations, false alarm 2e-6 together."""
    some = result(["x", "y", "z"], np.log([0.5, 0.3, 0.2]), algorithm="best_of_n")
    rows, weights = some.preferences(pairs=10_000, seed=3), weigh(some.preferences())
    assert {row["weight"] for row in rows} == {1e-4} and rows == some.preferences(pairs=10_000, seed=3)
    counts = Counter((row["chosen"], row["rejected"]) for row in rows)
    for pair, weight in weights.items():
        assert abs(counts[pair] - 10_000 * weight) < 5 * math.sqrt(10_000 * weight * (1 - weight))


def test_a_chat_s_pairs_are_messages() -> None:
    asked = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    row = result(["x", "y"], [0.0, -1.0], algorithm="best_of_n", prompt=asked).preferences()[0]
    assert row["prompt"] == asked
    assert row["chosen"] == [{"role": "assistant", "content": "x"}]
    assert row["rejected"] == [{"role": "assistant", "content": "y"}]


def test_an_assistant_s_turn_that_is_continued_is_part_of_the_answers() -> None:
    """TRL writes a prompt up to where the assistant begins, so that nothing of its turn may stand there."""
    asked = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Sure, "}]
    row = result(["x", "y"], [0.0, -1.0], algorithm="best_of_n", prompt=asked).preferences()[0]
    assert row["prompt"] == asked[:1] and row["chosen"] == [{"role": "assistant", "content": "Sure, x"}]
    assert asked[1]["content"] == "Sure, "


def test_pairs_are_written_as_lines_of_json(tmp_path) -> None:
    some = result(["x\n", "ÿ", "\udcff"], [0.0, -1.0, -2.0], algorithm="best_of_n")
    rows = some.preferences(path=tmp_path / "pairs.jsonl")
    lines = (tmp_path / "pairs.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows and len(rows) == 6


@pytest.mark.parametrize("algorithm", ["smc", "best_of_n", "beam", "gibbs", "exact"])
def test_every_algorithm_knows_its_prompt(tiny_lm, algorithm, tmp_path) -> None:
    task = tiny_lm("a", "b", seed=3).prompt("ab", max_tokens=2)
    found = fk.steer(task, particles=4, algorithm=algorithm, seed=0)
    assert found.prompt == "ab"
    found.to_json(tmp_path / "result.json")
    assert Result.from_json(tmp_path / "result.json").prompt == "ab"


def test_each_problem_of_a_batch_knows_its_prompt(tiny_lm) -> None:
    lm = tiny_lm("a", "b", seed=3)
    found = fk.steer([lm.prompt("a", max_tokens=2), lm.prompt("bb", max_tokens=2)], particles=4, seed=0)
    assert [each.prompt for each in found] == ["a", "bb"]


def test_programs_are_told_what_their_texts_continue(tiny_lm) -> None:
    @fk.program
    def write(p, lm):
        return p.sample(lm.context("a").gen(max_tokens=2))

    lm = tiny_lm("a", "b", seed=3)
    found = fk.steer(write(lm), particles=8, algorithm="best_of_n", seed=0)
    with pytest.raises(ArgumentError, match="give prompt="):
        found.preferences()
    assert {row["prompt"] for row in found.preferences(prompt="a")} == {"a"}


def test_what_makes_no_pairs_is_refused() -> None:
    good = result(["x", "y"], [0.0, 0.0])
    cases = [
        (result([np.zeros((2, 2))] * 2, [0.0, 0.0], prompt=None), good, "samples of this result are of ndarray"),
        (good, result([{"a": 1}, {"b": 2}], [0.0, 0.0]), "samples of base are of dict"),
        (result(["x", "x"], [0.0, 0.0], algorithm="best_of_n"), None, "one distinct text only, 'x'"),
        (result(["x", "y"], [0.0, -np.inf]), result(["x"], [0.0]), "one distinct text only, 'x'"),
        (good, None, "algorithm='smc' are the target's, and none the base's"),
        (result(["x", "y"], [0.0, 0.0], complete=False), good, "run of this result was stopped"),
        (good, result(["x", "y"], [0.0, 0.0], biased=True), "proposal of base leaves its weights out"),
        (good, result(["x", "y"], [0.0, 0.0], prompt="Sing"), "base continues 'Sing', and this result 'Say'"),
        (result(["x", "y"], [0.0, 0.0], prompt=None), good, "give prompt="),
    ]
    for target, base, said in cases:
        with pytest.raises(ArgumentError, match=said):
            target.preferences(base)
    with pytest.raises(AllParticlesDied, match="base died"):
        good.preferences(result(["x", "y"], [-np.inf, -np.inf], log_evidence=-math.inf))
    with pytest.raises(ArgumentError, match="pairs is 0"):
        good.preferences(good, pairs=0)
    with pytest.raises(ArgumentError, match="prompt is 3"):
        good.preferences(good, prompt=3)
