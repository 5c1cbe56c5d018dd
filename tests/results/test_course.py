"""The warnings that the course of a run gives: loud where something is wrong, and silent where nothing is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.results.course import doubt_course

LETTERS = "abcdefgh"
LAW = np.array([0.5, 0.25, 0.125, 0.0625, 0.03125, 0.02125, 0.0099, 0.0001])
LIMIT = 30


class Words:
    """N words of independent letters (the capability `TellsPieces`)."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __len__(self) -> int:
        return len(self.words)

    def fork(self, rows: np.ndarray) -> Words:
        return Words([self.words[i] for i in rows])

    def samples(self, rows: np.ndarray) -> list[str]:
        return [self.words[i] for i in rows]

    def texts(self, rows: np.ndarray) -> list[str]:
        return self.samples(rows)

    def tell_last(self, rows: np.ndarray) -> tuple[Any, Any]:
        last = np.array([LETTERS.index(self.words[i][-1]) for i in rows], np.int64)
        return last, np.log(LAW)[last]

    def spell(self, pieces: np.ndarray) -> list[bytes]:
        return [LETTERS[k].encode() for k in pieces]


class Letters:
    """Words of `LIMIT` letters; those of `masks` alone are drawn at the steps that it names."""

    name = "letters"

    def __init__(self, masks: dict[int, str] | None = None) -> None:
        self.masks = masks or {}

    def init(self, n: int, rng: Any) -> Words:
        return Words([""] * n)

    def step(self, t: int, state: Words, rng: Any) -> tuple[Words, np.ndarray]:
        p = np.array([q if c in self.masks.get(t, LETTERS) else 0.0 for c, q in zip(LETTERS, LAW, strict=True)])
        with np.errstate(divide="ignore"):
            drawn = rng.categorical(np.tile(np.log(p / LAW.sum()), (len(state), 1)))
        words = [word + LETTERS[k] for word, k in zip(state.words, drawn, strict=True)]
        return Words(words), np.full(len(words), np.log(p.sum() / LAW.sum()))

    def done(self, state: Words) -> np.ndarray:
        return np.array([len(word) == LIMIT for word in state.words])


class Worth:
    """So many nats for each of some letters, foreseen at every step."""

    name = "worth"

    def __init__(self, **nats: float) -> None:
        self.nats = nats

    def level(self, t: int, state: Words, rows: np.ndarray) -> np.ndarray:
        return np.array([sum(n * state.words[i].count(c) for c, n in self.nats.items()) for i in rows])

    def final(self, state: Words, rows: np.ndarray) -> np.ndarray:
        return self.level(0, state, rows)


GREEDY = Worth(f=6.0, g=6.0)


def doubts(model: Any, *potentials: Any, seed: int = 0, **options: Any) -> list[str]:
    given: dict[str, Any] = {"particles": 64, "seed": seed, **options}
    result = fk.steer(model, *potentials, **given)
    found = doubt_course(result.history)
    assert all(said in result.warnings for said in found)
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("masks", "reward"),
    [
        ({}, None),
        ({3: "gh", 9: "fg"}, None),
        ({}, Worth(b=0.3)),
        ({}, Worth(a=-0.2)),
        ({}, Worth(e=1.0)),
    ],
    ids=["nothing", "masks", "mild", "against what is likely", "for what is rare"],
)
def test_nothing_is_said_of_a_run_that_went_well(masks, reward, seed) -> None:
    weighed = () if reward is None else (reward,)
    assert doubts(Letters(masks), *weighed, seed=seed) == []


@pytest.mark.parametrize("algorithm", ["smc", "importance", "best_of_n", "beam"])
def test_a_mask_that_leaves_next_to_nothing_is_told_with_its_prefix(algorithm: str) -> None:
    rare = Letters({2: "h", 3: "h"})  # one in ten thousand, twice: neither step alone is as rare as that
    assert doubts(rare, algorithm=algorithm) == []

    class Rarer(Letters):
        def step(self, t: int, state: Words, rng: Any) -> tuple[Words, np.ndarray]:
            state, increment = super().step(t, state, rng)
            return state, increment - 5.0 * (t == 2)

    (said,) = doubts(Rarer({0: "a", 1: "b", 2: "h"}), algorithm=algorithm)
    assert said.startswith("almost impossible: behind 'ab' the model gives all that the constraints allow")
    assert "7e-07 (14.2 of the 16." in said


def test_the_start_of_a_text_has_no_prefix() -> None:
    class Rarer(Letters):
        def step(self, t: int, state: Words, rng: Any) -> tuple[Words, np.ndarray]:
            state, increment = super().step(t, state, rng)
            return state, increment - 20.0 * (t == 0)

    (said,) = doubts(Rarer())
    assert "at the start the model gives" in said


@pytest.mark.parametrize("seed", range(4))
def test_a_reward_that_buys_its_gain_with_unlikely_texts_is_told_of(seed: int) -> None:
    (said,) = doubts(Letters(), GREEDY, seed=seed)
    assert said.startswith("far from the model's own texts") and "over-optimised" in said
    assert doubts(Letters(), Worth(f=0.6, g=0.6), seed=seed) == []


def test_runs_that_cannot_tell_are_left_alone() -> None:
    result = fk.steer(Letters(), GREEDY, seed=0, particles=64)
    silent = {"pieces": [], "moved": [[0]], "sweeps": [0], "log_probs": [[float("nan")] * 64] * LIMIT}
    assert doubt_course(result.history)
    for name, value in silent.items():
        assert doubt_course(replace(result.history, **{name: value})) == [], name
    dead = replace(result.history, log_weights=[*result.history.log_weights[:-1], [-np.inf] * 64])
    assert doubt_course(dead) == []


def test_islands_that_ran_apart_are_judged_together() -> None:
    result = fk.steer(Letters(), GREEDY, seed=0, particles=64, islands=4, executor=fk.LocalExecutor(2))
    assert sum("far from the model's own texts" in said for said in result.warnings) == 1
