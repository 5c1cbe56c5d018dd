"""A budget ends a run of any algorithm at its limit, with what there is, and says which limit it was."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.results.pages.telling import tell_result
from tests.exact.toys import chain
from tests.steering.runs import count, walk

ALGORITHMS = ("smc", "optimal", "importance", "best_of_n", "beam", "gibbs")


def assert_spent(result: fk.Result, said: str) -> None:
    assert not result.complete and said in result.warnings[0], result.warnings


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "gibbs"])
def test_so_many_calls_are_the_run_up_to_that_step(tiny_lm, algorithm) -> None:
    task = tiny_lm(eos=()).prompt("a", max_tokens=9)
    options: dict[str, Any] = {"particles": 6, "algorithm": algorithm, "seed": 1}
    cut = fk.steer(task, fk.reward(count), budget=fk.Budget(calls=4), **options)
    stopped = fk.steer(task, fk.reward(count), observers=[lambda step: step.t == 3], **options)
    assert_spent(cut, "budget of 4 calls was used up")
    assert cut.texts == stopped.texts and cut.history == stopped.history
    np.testing.assert_array_equal(cut.log_weights, stopped.log_weights)


def test_gibbs_keeps_the_sweeps_that_are_finished(tiny_lm) -> None:
    task = tiny_lm(eos=()).prompt("a", max_tokens=5)  # sweeps of five calls
    options: dict[str, Any] = {"particles": 4, "algorithm": "gibbs", "sweeps": 6, "seed": 0}
    three = fk.steer(task, fk.reward(count), **{**options, "sweeps": 3})
    for calls in (15, 17, 19):  # the fourth sweep is cut short, or has not begun
        found = fk.steer(task, fk.reward(count), budget=fk.Budget(calls=calls), **options)
        assert_spent(found, f"budget of {calls} calls")
        assert len(found.history.sweeps) == 3 and found.texts == three.texts
        np.testing.assert_array_equal(found.log_weights, three.log_weights)
    assert fk.steer(task, budget=fk.Budget(calls=30), **options).complete


def test_of_gibbs_that_was_stopped_in_its_first_sweep_nothing_is_claimed(tiny_lm) -> None:
    """What it has then is weighted for the target so far, as a run of SMC that was stopped; after a sweep it is not."""
    task = tiny_lm(eos=()).prompt("a", max_tokens=5)
    options: dict[str, Any] = {"particles": 4, "algorithm": "gibbs", "sweeps": 6, "seed": 0}
    early, later = (fk.steer(task, fk.reward(count), budget=fk.Budget(calls=n), **options) for n in (3, 7))
    assert_spent(early, "budget of 3 calls")
    assert early.log_evidence_interval() == (-math.inf, math.inf)
    assert "nats of the target so far" in early.summary() and "sure" not in early.summary()
    with pytest.raises(fk.ArgumentError, match="its texts are unfinished"):
        early.preferences()
    assert later.log_evidence_interval()[0] > -math.inf and "95 % sure" in later.summary()
    assert later.preferences(later)
    notes = [tell_result(each, None)["facts"][-1]["note"] for each in (early, later)]
    assert notes == ["the weights are for the target so far", ""]


def test_exact_gives_the_texts_found_and_a_lower_bound(tiny_lm) -> None:
    task = tiny_lm().prompt("a", max_tokens=6)
    whole = fk.steer(task, fk.regex("[ab]*"), algorithm="exact")
    cut = fk.steer(task, fk.regex("[ab]*"), algorithm="exact", budget=fk.Budget(calls=3))
    assert_spent(cut, "budget of 3 calls")
    assert "lower bound" in cut.warnings[1] and cut.log_evidence_se is None
    assert set(cut.texts) < set(whole.texts) and cut.log_evidence < whole.log_evidence
    assert cut.log_evidence_interval() == (cut.log_evidence, math.inf)
    assert fk.steer(task, fk.regex("[ab]*"), algorithm="exact", budget=fk.Budget(calls=10**6)).complete
    tokens = fk.steer(task, fk.regex("[ab]*"), algorithm="exact", budget=fk.Budget(tokens=4))
    assert_spent(tokens, "budget of 4 tokens")
    assert tokens.forwarded_tokens is not None and 4 <= tokens.forwarded_tokens < 20


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", ["prompt", "program", "problems"])
def test_tokens_are_those_that_the_result_counts(tiny_lm, algorithm, kind) -> None:
    if (algorithm, kind) == ("optimal", "program"):
        pytest.skip("programs do not branch")
    lm = tiny_lm(eos=())
    prompts = [lm.prompt("a", max_tokens=9), lm.prompt("bb", max_tokens=9)]
    task = {"prompt": prompts[0], "program": walk(lm, 9), "problems": prompts}[kind]
    options: dict[str, Any] = {"particles": 4, "algorithm": algorithm, "seed": 0, "budget": fk.Budget(tokens=20)}
    seen: list[tuple[int, int]] = []
    if algorithm == "gibbs":
        options["sweeps"] = 40
    found = fk.steer(
        task, fk.reward(count), observers=[lambda step: seen.append((step.t, sum(step.state.forwarded)))], **options
    )
    results = found if isinstance(found, list) else [found]
    for result in results:
        assert_spent(result, "budget of 20 tokens")
    before, sums = 0, list[int]()
    for i, (t, now) in enumerate(seen):
        before += seen[i - 1][1] if i and t == 0 else 0  # another sweep begins
        sums.append(before + now)
    last = next(i for i, spent in enumerate(sums) if spent >= 20)
    assert [t for t, _ in seen[last + 1 :]] == [0] * (len(seen) - last - 1)  # of a problem that had not begun
    assert algorithm == "gibbs" or last == len(seen) - 1
    if algorithm != "gibbs":  # of which the result has no sweep that is cut short
        assert sum(result.forwarded_tokens for result in results) == sums[-1]


def test_seconds_end_a_run_after_the_step_that_crosses_them(tiny_lm) -> None:
    task = tiny_lm(eos=()).prompt("a", max_tokens=400)
    asked = []

    def slow(text: str) -> float:
        asked.append(text)
        time.sleep(0.2)
        return 0.0

    found = fk.steer(task, fk.reward(slow), particles=1, seed=0, budget=fk.Budget(seconds=0.3))
    assert_spent(found, "budget of 0.3 seconds")
    assert 1 <= len(found.history.ess) <= 2 and len(asked) <= 3


def test_a_budget_that_is_gone_before_the_first_step_leaves_one_step(tiny_lm) -> None:
    task = tiny_lm(eos=()).prompt("a", max_tokens=40)
    found = fk.steer(task, particles=4, seed=0, budget=fk.Budget(seconds=1e-9))
    assert_spent(found, "budget of 1e-09 seconds") and len(found.history.ess) == 1


def test_a_budget_used_twice_starts_anew(tiny_lm) -> None:
    task, budget = tiny_lm(eos=()).prompt("a", max_tokens=9), fk.Budget(calls=5, tokens=100)
    one, two = (fk.steer(task, particles=4, seed=0, budget=budget) for _ in range(2))
    assert len(one.history.ess) == len(two.history.ess) == 5 and one.texts == two.texts


def test_a_run_within_its_budget_is_whole_and_says_nothing(tiny_lm) -> None:
    task = tiny_lm(eos=()).prompt("a", max_tokens=5)
    found = fk.steer(task, particles=4, seed=0, budget=fk.Budget(calls=5, tokens=1000, seconds=600))
    assert found.complete and not any("budget" in said for said in found.warnings)


def test_what_is_no_budget_is_refused_by_name(tiny_lm) -> None:
    for wrong in (5, {"seconds": 3}, fk.Budget):
        with pytest.raises(fk.ArgumentError, match=r"budget is .*give fk\.Budget\(seconds="):
            fk.steer(tiny_lm().prompt("a"), budget=wrong)


def test_tokens_of_a_model_without_tokens_are_refused_by_name() -> None:
    toy = chain()
    with pytest.raises(fk.ArgumentError, match="does not count tokens; limit seconds= or calls="):
        fk.steer(toy.model, toy.potential, budget=fk.Budget(tokens=10))
    assert not fk.steer(toy.model, toy.potential, budget=fk.Budget(calls=1), seed=0).complete


def test_the_death_of_all_in_a_run_that_is_cut_is_no_error(tiny_lm) -> None:
    """As after Ctrl-C: what there is is returned."""
    task = tiny_lm(eos=()).prompt("a", max_tokens=9)
    found = fk.steer(task, fk.reward(count), particles=4, on_death="raise", seed=0, budget=fk.Budget(calls=2))
    assert not found.complete and len(found.samples) == 4


# --- in pieces -------------------------------------------------------------------------------------------------------


def test_jobs_share_the_calls_of_a_budget(tiny_lm) -> None:
    task = tiny_lm(eos=()).prompt("a", max_tokens=9)
    options: dict[str, Any] = {"particles": 8, "islands": 4, "seed": 0, "executor": fk.LocalExecutor(2)}
    found = fk.steer(task, fk.reward(count), budget=fk.Budget(calls=7), **options)
    assert_spent(found, "of its share, as one of 2 jobs, the budget of 3 calls")
    assert len(found.history.ess) == 3 and len(found.samples) == 8


def test_seconds_are_those_of_all_jobs_together(tiny_lm) -> None:
    def slow(text: str) -> float:
        time.sleep(0.02)
        return 0.0

    task = tiny_lm(eos=()).prompt("a", max_tokens=400)
    options: dict[str, Any] = {"particles": 4, "islands": 4, "seed": 0, "executor": fk.LocalExecutor(4)}
    found = fk.steer(task, fk.reward(slow), budget=fk.Budget(seconds=0.3), **options)
    assert_spent(found, "budget of 0.3 seconds")
    assert len(found.samples) == 1 and any("1 of 4 islands had begun" in said for said in found.warnings)
