"""One constraint in several threads at once gives what it gives alone; copies and pickles give the same."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from feynkac.base.masks import unpack
from feynkac.base.per_vocabulary import PerVocabulary
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials import choices, grammar, json_schema, length, parser, phrases, regex, tokens
from feynkac.potentials.constraints import tokenwise
from feynkac.potentials.constraints.automata import dfa
from feynkac.potentials.constraints.engines.llguidance import table
from feynkac.potentials.constraints.parsers import automaton as parsed
from feynkac.potentials.constraints.tokenwise import Walk
from feynkac.potentials.discrete import Lookahead, tempered

THREADS, RUNS, ROWS, STEPS = 3, 16, 6, 8
SLOW = {"parser": 5}
"""Runs of constraints whose masks are made in Python, where threads take turns at every line."""
# "é" only comes in halves, and no token holds "z": some states are dead for the tokens and not for the bytes.
TOKENS = (b"a", b"b", b"ab", b"(", b")", b"((", b"1", b"[1", b",", b"]", b"\xc3", b"\xa9", b"aba", b"", b"1,1", b"[")
END = TOKENS.index(b"")
_rng = np.random.default_rng(0)
# Enough tokens that masks take a while, during which the other threads are let in.
TOKENS += tuple(bytes(_rng.choice(list(b"ab(1[,]\xc3\xa9"), _rng.integers(2, 9)).tolist()) for _ in range(4000))


def close(depth: int, byte: bytes) -> int | None:
    depth += {b"(": 1, b")": -1}.get(byte, 0)
    return depth if depth >= 0 else None


def is_closed(depth: int) -> bool:
    return depth == 0


CONSTRAINTS: dict[str, Callable[[], Any]] = {
    "regex": lambda: regex(r"(?:a|b|é|[(1]z|1?\)){0,9}(?:ab|[^z])*"),
    "choices": lambda: choices(["ab" * i + "1" * j for i in range(6) for j in range(6)]),
    "words": lambda: length(min=1, max=6, unit="char"),
    "tokens": lambda: tokens(ban=["1"]),
    "grammar": lambda: grammar('start: "(" start ")" | "a" start | "b"*'),
    "phrases": lambda: phrases(ban=["ab1", "z"], require=["b"]),
    "parser": lambda: parser(close, 0, is_closed),
    "json": lambda: json_schema({"type": "array", "items": {"enum": [1, 11]}, "minItems": 1}),
}


@pytest.fixture(autouse=True)
def _many_switches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads take turns as often as they can, and next to nothing stays remembered."""
    bounds = [(table, "_ROWS"), (table, "_MATCHERS"), (table, "_CHILDREN"), (dfa, "_ROWS"), (parsed, "_ROWS")]
    for module, name in [*bounds, (parsed, "_MOVES")]:
        monkeypatch.setattr(module, name, 2)
    monkeypatch.setattr(tokenwise, "_REMEMBERED", 2)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def walk(constraint: Any, vocabulary: Vocabulary, population: Any, seed: int) -> list[Any]:
    """All that a run of `ROWS` random texts sees: masks, levels and final log-weights, and the tokens drawn."""
    rng, rows = np.random.default_rng(seed), np.arange(ROWS)
    automaton, seen = constraint.automaton(vocabulary), list[Any]()
    states, texts = np.full(ROWS, automaton.start), [[] for _ in rows]
    for t in range(STEPS):
        masks = automaton.masks(states)
        allowed = unpack(masks, vocabulary.size)
        allowed[:, END] = False
        drawn = np.where(allowed, rng.random(allowed.shape), -1.0).argmax(axis=1)
        states = automaton.advance(states, drawn)
        for text, token in zip(texts, drawn.tolist(), strict=True):
            text.append(token)
        whole = population(texts, vocabulary)
        level, final = constraint.level(t, whole, rows), constraint.final(whole, rows)
        np.testing.assert_array_equal(states >= 0, level == 0.0)
        accepted = automaton.accepts(states).tolist()
        seen.append((zlib.crc32(masks.tobytes()), drawn.tolist(), accepted, level.tolist(), final.tolist()))
    return seen


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_threads_see_what_each_would_see_alone(name: str, population: Any) -> None:
    runs = SLOW.get(name, RUNS)
    alone = [walk(CONSTRAINTS[name](), Vocabulary(TOKENS, (END,)), population, seed) for seed in range(runs)]
    shared, vocabulary = CONSTRAINTS[name](), Vocabulary(TOKENS, (END,))
    with ThreadPoolExecutor(THREADS) as pool:
        orders = [np.random.default_rng(k).permutation(runs).tolist() for k in range(THREADS)]
        jobs = [
            pool.submit(lambda order: {seed: walk(shared, vocabulary, population, seed) for seed in order}, order)
            for order in orders
        ]
        for job in jobs:
            together = job.result()
            assert [together[seed] for seed in range(runs)] == alone


def test_threads_walk_over_texts_as_each_would_alone() -> None:
    automaton = regex("(?:aab|ba|[ab]{3})*").automaton(Vocabulary((b"a", b"b", b"ab")))
    shared = Walk(automaton)

    def follow(run: int) -> None:
        rng = np.random.default_rng(run)
        for _ in range(60):
            sequences = [rng.integers(0, 3, rng.integers(0, 6)) for _ in range(ROWS)]
            expected = []
            for sequence in sequences:
                states = np.zeros(1, np.int64)
                for token in sequence:
                    states = automaton.advance(states, np.array([token]))
                expected.append(int(states[0]))
            assert shared(sequences).tolist() == expected

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(follow, range(THREADS * RUNS)))


def test_a_value_is_made_once_for_all_threads() -> None:
    memo, vocabulary, made = PerVocabulary[object](), Vocabulary((b"a",)), list[int]()
    start = threading.Barrier(8)

    def make(_: Vocabulary) -> object:
        made.append(1)
        time.sleep(0.01)
        return object()

    def ask(_: int) -> object:
        start.wait()
        return memo.find(vocabulary, make)

    with ThreadPoolExecutor(8) as pool:
        values = set(map(id, pool.map(ask, range(8))))
    assert len(values) == len(made) == 1


def test_an_automaton_is_freed_with_its_vocabulary() -> None:
    constraint, vocabulary = regex("[ab]*"), Vocabulary(TOKENS, (END,))
    constraint.automaton(vocabulary)
    assert len(constraint._automata._values) == 1
    del vocabulary
    assert len(constraint._automata._values) == 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_copies_give_the_same(name: str, copied: Any, population: Any) -> None:
    constraint, vocabulary = CONSTRAINTS[name](), Vocabulary(TOKENS, (END,))
    before = walk(constraint, vocabulary, population, 0)
    for other in (copied(CONSTRAINTS[name]()), copied(constraint)):  # before and after it is compiled
        assert other.name == constraint.name and other.automaton(vocabulary) is not constraint.automaton(vocabulary)
        assert walk(other, vocabulary, population, 0) == before


def test_what_is_made_of_constraints_can_be_pickled() -> None:
    both = regex("a*") * length(max=3)
    for potential in (both, tempered(both, ess=0.5), Lookahead(both, samples=2, power=0.5)):
        assert pickle.loads(pickle.dumps(potential)).name == potential.name
