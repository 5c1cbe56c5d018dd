"""Where mass is lost: the sums of an explanation over all runs, and along the paths of one."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.results.explanation import explain
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, multinomial, never, ssp
from feynkac.smc.testing import enumerate_runs
from feynkac.steering.recorder import Recorder

ROUNDED = 2e-5
"""A history has six digits, of which these sums add up a few."""
LAW = np.array([0.7, 0.3])
STEPS = 3


class Words:
    """N words of "a" and "b" (the capability `TellsPieces`)."""

    def __init__(self, words: list[str], dead: np.ndarray) -> None:
        self.words, self.dead = words, dead

    def __len__(self) -> int:
        return len(self.words)

    def fork(self, rows: np.ndarray) -> Words:
        return Words([self.words[i] for i in rows], self.dead[rows])

    def samples(self, rows: np.ndarray) -> list[str]:
        return [self.words[i] for i in rows]

    def tell_last(self, rows: np.ndarray) -> tuple[Any, Any]:
        last = np.array([-1 if self.dead[i] else "ab".index(self.words[i][-1]) for i in rows], np.int64)
        return last, np.where(last < 0, -np.inf, np.log(LAW)[last])

    def spell(self, pieces: np.ndarray) -> list[bytes]:
        return [b"" if k < 0 else b"ab"[k : k + 1] for k in pieces]


def allowed(word: str) -> list[str]:
    """No two "b" in a row, and nothing at all behind "ba"."""
    return [] if word == "ba" else ["a"] if word.endswith("b") else ["a", "b"]


class Masked:
    """Words of three letters, drawn under a mask, with the mass that it leaves as the increment."""

    name = "words"

    def init(self, n: int, rng: Any) -> Words:
        return Words([""] * n, np.zeros(n, bool))

    def step(self, t: int, state: Words, rng: Any) -> tuple[Words, np.ndarray]:
        runs = np.array([len(word) < STEPS for word in state.words]) & ~state.dead
        log_p = np.array([[0.0 if c in allowed(word) else -np.inf for c in "ab"] for word in state.words]) + np.log(LAW)
        mass = np.exp(log_p).sum(axis=1)
        with np.errstate(divide="ignore"):
            inc = np.where(runs, np.log(mass), 0.0)
        drawn = rng.categorical(np.where((mass > 0.0)[:, None], log_p, np.log(LAW)))
        grown = runs & (mass > 0.0)
        words = [word + "ab"[k] if grows else word for word, k, grows in zip(state.words, drawn, grown, strict=True)]
        return Words(words, state.dead | (runs & ~grown)), inc

    def done(self, state: Words) -> np.ndarray:
        return np.array([len(word) == STEPS for word in state.words])


class Liking:
    """Foresees half of what each "b" is worth, and rejects "abb" and what ends in it."""

    name = "liking"

    def level(self, t: int, state: Words, rows: np.ndarray) -> np.ndarray:
        return np.array([0.5 * state.words[i].count("b") for i in rows])

    def final(self, state: Words, rows: np.ndarray) -> np.ndarray:
        return np.array([-np.inf if state.words[i] == "aab" else 1.0 * state.words[i].count("b") for i in rows])


def weigh(word: str) -> float:
    """The mass of the target so far: p(word), were it allowed, times the guess; at the end the final weight."""
    p = math.prod(LAW["ab".index(c)] for c in word)
    lawful = all(c in allowed(word[:i]) for i, c in enumerate(word))
    if len(word) == STEPS:
        return 0.0 if not lawful or word == "aab" else p * math.exp(word.count("b"))
    return p * math.exp(0.5 * word.count("b")) if lawful else 0.0


def record(rng: Any, resample: Any, n: int = 2) -> Recorder:
    recorder = Recorder(0, 1)
    for step in smc(Masked(), Liking(), n=n, resample=resample, rng=rng):
        recorder(step)
    return recorder


def explain_run(rng: Any, resample: Any) -> Any:
    from feynkac.base.clock import Stopwatch

    return explain(record(rng, resample).make_result(Stopwatch(), 0, complete=True, warnings=[]))


@pytest.mark.parametrize("resample", [multinomial, adaptive(ssp, ess=0.9)])
def test_what_is_lost_behind_a_prefix_is_unbiased_over_all_runs(resample: Any) -> None:
    """Three masses of each prefix: before the step, after masks, after potentials."""
    found: dict[tuple[int, str], np.ndarray] = defaultdict(lambda: np.zeros(3))
    for p, told in enumerate_runs(lambda rng: explain_run(rng, resample)):
        for loss in told:
            carried = told._history.carried[loss.step]
            before = loss.share * math.fsum(math.exp(c) for c in carried)
            after = before * math.exp(-loss.masked)
            found[loss.step, loss.prefix] += p * np.array([before, after, after * math.exp(-loss.weighed)])
    words = [("".join(word), t) for t in range(STEPS) for word in itertools.product("ab", repeat=t)]
    for word, t in words:
        left = sum(LAW["ab".index(c)] for c in allowed(word))
        truth = [weigh(word), weigh(word) * left, sum(weigh(word + c) for c in allowed(word))]
        np.testing.assert_allclose(found[t, word], truth, atol=ROUNDED, err_msg=word)


@pytest.mark.parametrize("resample", [multinomial, never])
def test_the_parts_of_a_run_add_up_to_its_evidence_and_those_of_its_texts_to_what_they_lost(resample: Any) -> None:
    for _, told in enumerate_runs(lambda rng: explain_run(rng, resample)):
        if told.log_evidence > -math.inf:
            parts = math.fsum(loss.nats for loss in told) + told.elsewhere
            assert parts == pytest.approx(-told.log_evidence, abs=ROUNDED)
            weights = np.exp(np.array(told._history.log_weights[-1]) - told.log_evidence)
            paths = [math.fsum(s.masked + s.weighed for s in told.path(i)) for i in np.flatnonzero(weights)]
            assert told.mean_lost == pytest.approx(float(weights[weights > 0.0] @ paths), abs=ROUNDED)


def test_without_resampling_a_path_adds_up_to_the_weight_of_its_sample() -> None:
    for _, told in enumerate_runs(lambda rng: explain_run(rng, never)):
        for i, log_weight in enumerate(told._history.log_weights[-1]):
            lost = math.fsum(step.masked + step.weighed for step in told.path(i))
            assert lost == pytest.approx(-(log_weight + math.log(2)), abs=ROUNDED)


def test_the_potential_that_rejected_is_named_and_the_model_where_no_token_was_left() -> None:
    killers = {
        (loss.prefix, name)
        for _, told in enumerate_runs(lambda rng: explain_run(rng, never))
        for loss in told
        for name in loss.killers
    }
    assert killers == {("ba", "the model"), ("aa", "a potential")}  # a recorder without verdicts knows no names

    result = fk.steer(Masked(), Liking(), particles=200, seed=0, algorithm="importance")
    assert {(x.prefix, name) for x in result.explain() for name in x.killers} == {("ba", "the model"), ("aa", "liking")}
    assert '"aa"  <- liking' in str(result.explain())
    assert sum(loss.died for loss in result.explain()) == (result.log_weights == -np.inf).sum() > 2


def test_an_explanation_is_shown_in_a_notebook_without_markup_of_the_model() -> None:
    result = fk.steer(Masked(), Liking(), particles=8, seed=0, algorithm="importance", on_death="return")
    history = result.history
    wild = replace(result, history=replace(history, pieces=[["<b>\x1b[2J"] * 8, *history.pieces[1:]]))
    page = wild.explain()._repr_html_()
    assert "<b>" not in page and "\x1b" not in page and "&lt;b&gt;\\x1b[2J" in page


def test_what_cannot_be_explained_is_refused(tiny_lm) -> None:
    listed = fk.steer(tiny_lm().prompt("a", max_tokens=1), algorithm="exact")
    with pytest.raises(fk.ArgumentError, match="does not tell what its steps weighed"):
        listed.explain()
    told = fk.steer(Masked(), Liking(), particles=8, seed=0, on_death="return").explain()
    with pytest.raises(fk.ArgumentError, match="has the rows 0 to 7"):
        told.path(8)
