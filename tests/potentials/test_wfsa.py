"""Weighted automata: the weight of each text is the sum over its paths, found one by one; masks are its support."""

from __future__ import annotations

import itertools
import math
import pickle
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import feynkac as fk
from feynkac.base.errors import ArgumentError, ConstraintError, PotentialError
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials import phrases, regex, wfsa

VOCABULARY = Vocabulary((b"a", b"b", b"ab", "é".encode(), b"\xc3", b"\xa9b", b"", b"ba"), (6,))
TEXT = [v for v, token in enumerate(VOCABULARY.tokens) if token]
ROWS = np.arange(1)

transitions = st.lists(
    st.tuples(st.sampled_from("pqr"), st.sampled_from(["a", "b", "é", "[ab]", ".", "[^a]"]), st.sampled_from("pqr"),
              st.sampled_from([0.0, -0.5, 1.25, -3.0])), min_size=1, max_size=6)  # fmt: skip


def sum_paths(listed: Any, starts: dict, finals: dict, text: str) -> float:
    """exp of the log-weight of a text, path by path."""
    total = 0.0
    for path in itertools.product(listed, repeat=len(text)):
        states = [a for a, _, _, _ in path] + [b for _, _, b, _ in path[-1:]]
        meets = all(re.fullmatch(chars, char) for (_, chars, _, _), char in zip(path, text, strict=True))
        joined = all(one[2] == other[0] for one, other in itertools.pairwise(path))
        if path and meets and joined and states[0] in starts and states[-1] in finals:
            total += math.exp(starts[states[0]] + sum(w for *_, w in path) + finals[states[-1]])
    if not text:
        total = sum(math.exp(starts[s] + finals[s]) for s in starts.keys() & finals.keys())
    return total


def decoded(text: bytes) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    transitions,
    st.sampled_from([{"p": 0.0}, {"p": -1.0, "q": 0.5}]),
    st.sampled_from([{"q": 0.0}, {"q": 2.0, "r": -1.0}]),
)
def test_the_weight_of_a_text_is_the_sum_over_its_paths(
    explore: Any, population: Any, listed: Any, starts: Any, finals: Any
) -> None:
    def truth(text: bytes) -> float:
        whole = decoded(text)
        return 0.0 if whole is None else sum_paths(listed, starts, finals, whole)

    sequences = [ids for n in range(4) for ids in itertools.product(TEXT, repeat=n)]
    try:
        weighted = wfsa(listed, start=starts, final=finals)
    except ConstraintError as error:
        assert "matches no text at all" in str(error)
        assert not any(truth(VOCABULARY.bytes(ids)) for ids in sequences)
        return
    found = weighted.final(population(sequences, VOCABULARY), np.arange(len(sequences)))
    texts = {ids: VOCABULARY.bytes(ids) for ids in sequences}
    expected = {text: truth(text) for text in {*texts.values()} if len(text) <= 4}
    for ids, value in zip(sequences, found, strict=True):
        if texts[ids] in expected:
            assert math.exp(value) == pytest.approx(expected[texts[ids]], rel=1e-12), texts[ids]
    mask = weighted.factors[0]
    short = Vocabulary((b"a", b"b", b"\xc3", b"\xa9", b""), (4,))
    try:
        automaton = mask.automaton(short)  # type: ignore[attr-defined]
    except ConstraintError:
        return
    explore(automaton, short).check(lambda text: truth(text) > 0.0, depth=3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: wfsa(
            [("s", "a", "s", -0.5), ("s", "[^a]", "t", 0.7), ("t", ".", "s", -2.0), ("s", "a", "t", 0.1)], "s", "t"
        ),
        lambda: wfsa({"(a|b)*": -1.0, "a*b": 0.5, "[éb]+": 2.0}),
    ],
)
def test_what_a_token_adds_is_what_the_level_gains(population: Any, make: Any) -> None:
    weigh = make().factors[1]
    for ids in ((), (0,), (2, 0), (1, 4), (3,), (3, 3)):
        walk, sequences = weigh._find_walk(population([ids], VOCABULARY), ROWS)
        ((prospect, before),) = walk.read(sequences)
        row = walk.weigh_tokens(prospect)
        for token in TEXT:
            state = population([(*ids, token)], VOCABULARY)
            np.testing.assert_allclose(row[token] + before, weigh.level(0, state, ROWS)[0], rtol=1e-6)
        np.testing.assert_allclose(row[6] + before, weigh.final(population([ids], VOCABULARY), ROWS)[0], rtol=1e-6)


def test_regexes_with_weights_add_up(explore: Any, population: Any) -> None:
    choices = {"(a|b)*": -1.0, "a*b": 0.5, phrases(require=["é"]): 2.0, "zz": -math.inf}
    weighted = wfsa(choices)
    sequences = [ids for n in range(4) for ids in itertools.product(TEXT, repeat=n)]
    found = weighted.final(population(sequences, VOCABULARY), np.arange(len(sequences)))

    def truth(text: bytes) -> float:
        whole = decoded(text)
        if whole is None:
            return 0.0
        matched = [re.fullmatch("(a|b)*", whole), re.fullmatch("a*b", whole), "é" in whole]
        return sum(math.exp(w) for w, holds in zip((-1.0, 0.5, 2.0), matched, strict=True) if holds)

    for ids, value in zip(sequences, found, strict=True):
        assert math.exp(value) == pytest.approx(truth(VOCABULARY.bytes(ids)), rel=1e-12)
    short = Vocabulary((b"a", b"b", b"\xc3", b"\xa9", b""), (4,))
    explore(weighted.factors[0].automaton(short), short).check(lambda text: truth(text) > 0, depth=3)  # type: ignore


def test_a_promise_of_death_is_kept(population: Any) -> None:
    """The level is -inf only where no path of the text so far goes on."""
    weighted = wfsa([("s", "a", "t", 0.0), ("t", "b", "u", 0.0), ("s", "a", "dead end", 3.0)], "s", "u")
    levels = [
        float(weighted.level(0, population([ids], VOCABULARY), ROWS)[0]) for ids in ((), (0,), (2,), (1,), (0, 0))
    ]
    assert levels == [0.0, 0.0, 0.0, -math.inf, -math.inf]


def test_weights_combine_and_survive_a_pickle(population: Any) -> None:
    weighted = pickle.loads(pickle.dumps(wfsa({"a*": -1.5, "aa": 0.0})))
    state = population([(0, 0), (0,), (1,)], VOCABULARY)
    both = math.log(math.exp(-1.5) + 1.0)
    np.testing.assert_allclose(weighted.final(state, np.arange(3)), [both, -1.5, -math.inf])
    np.testing.assert_allclose((weighted**2.0).final(state, np.arange(3)), [2 * both, -3.0, -math.inf])
    np.testing.assert_allclose((weighted * regex("aa")).final(state, np.arange(3)), [both, -math.inf, -math.inf])


def test_many_different_prospects_are_forgotten_and_found_again(population: Any, monkeypatch: Any) -> None:
    from feynkac.potentials.constraints import weighted as module

    listed = [("p", "a", "p", -0.1), ("p", "a", "q", -1.3), ("q", "a", "p", -0.7), ("q", "[ab]", "q", 0.4)]
    sequences = [ids for n in range(5) for ids in itertools.product((0, 1), repeat=n)]
    state = population(sequences, VOCABULARY)
    expected = wfsa(listed, "p", "q").final(state, np.arange(len(sequences)))
    monkeypatch.setattr(module, "_STEPS", 2)
    monkeypatch.setattr(module, "_TEXTS", 1)
    small = wfsa(listed, "p", "q")
    found = [small.final(state, np.array([i]))[0] for i in range(len(sequences))]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(
        np.exp(expected), [sum_paths(listed, {"p": 0}, {"q": 0}, VOCABULARY.text(ids)) for ids in sequences]
    )


@pytest.mark.parametrize("n_states", [3, 400])
def test_memory_of_weights_is_bounded_whatever_the_number_of_states(monkeypatch: Any, n_states: int) -> None:
    """A prospect has a share for each state, so that of larger ones fewer are kept."""
    from feynkac.potentials.constraints import weighted as module

    monkeypatch.setattr(module, "_STEPS", 400)
    # Every text has shares of its own.
    moves = [(i, char, j, 0.1 * (i + 1) * (j + ord(char) % 7)) for i in (0, 1) for j in (0, 1) for char in "ab"]
    chain = [(i, "a", i + 1, 0.0) for i in range(1, n_states - 1)]
    weight: Any = wfsa([*moves, *chain], 0, {0: 0.0, 1: 0.0, n_states - 1: 0.0}).factors[1]
    walk = module.WeightWalk(weight._weights, VOCABULARY)
    for ids in itertools.product((0, 1), repeat=8):
        walk.read([np.array(ids)])
    size = 8 * n_states * len({prospect for prospect, _ in walk._steps})
    assert len(walk._steps) > 0 and size <= 8 * 32 * 400


@pytest.mark.parametrize(
    ("make", "error", "problem"),
    [
        (lambda: wfsa([("s", "a", "s")], "s", "s"), ArgumentError, r"\('s', 'a', 's'\) is no transition"),
        (lambda: wfsa([("s", "a", "s", math.nan)], "s", "s"), ArgumentError, "log-weight is nan"),
        (lambda: wfsa([("s", "a", "s", math.inf)], "s", "s"), ArgumentError, "log-weight is inf"),
        (lambda: wfsa([("s", "a", "s", True)], "s", "s"), ArgumentError, "log-weight is True"),
        (lambda: wfsa([("s", 3, "s", 0.0)], "s", "s"), ArgumentError, "3 is no str"),
        (lambda: wfsa([("s", "a", [], 0.0)], "s", "s"), ArgumentError, "has no hash"),
        (lambda: wfsa([("s", "ab", "s", 0.0)], "s", "s"), ConstraintError, "no regex for one character"),
        (lambda: wfsa([("s", "", "s", 0.0)], "s", "s"), ConstraintError, "fold transitions without a character"),
        (lambda: wfsa([("s", "[a", "s", 0.0)], "s", "s"), ConstraintError, "unterminated character set"),
        (lambda: wfsa([("s", "a", "t", 0.0)], "s", "u"), ConstraintError, "matches no text at all"),
        (lambda: wfsa([("s", "a", "s", 0.0)], "s"), ArgumentError, "name the final state"),
        (lambda: wfsa("abc", "s", "s"), ArgumentError, "give a list of transitions"),
        (lambda: wfsa({}), ArgumentError, "at least one"),
        (lambda: wfsa([("s", "\ud800", "s", 0.0)], "s", "s"), ConstraintError, "half of a character"),
        (lambda: wfsa({"a": -math.inf}), ConstraintError, "all weights are zero"),
        (lambda: wfsa({"a": "b"}), ArgumentError, "log-weight is 'b'"),
        (lambda: wfsa({"a": 0.0}, start="s"), ArgumentError, "leave out start"),
        (lambda: wfsa({"(?=a)": 0.0}), ConstraintError, "look-around"),
    ],
)  # fmt: skip
def test_what_is_no_weighted_automaton_is_refused_where_it_is_written(make: Any, error: Any, problem: str) -> None:
    with pytest.raises(error, match=problem):
        make()


def test_what_has_no_tokens_is_told() -> None:
    with pytest.raises(PotentialError, match="weighs the text of tokens"):
        wfsa({"a": 0.0}).factors[1].level(0, object(), ROWS)


def test_a_weighted_automaton_steers(tiny_lm: Any) -> None:
    weighted = wfsa([("s", "a", "s", 0.5), ("s", "b", "s", -0.5)], "s", "s")
    result = fk.steer(tiny_lm("a", "b").prompt("a", max_tokens=4), weighted, particles=16, seed=0)
    assert result.log_evidence > -10


def test_weights_guide_the_tokens_so_that_levels_do_not_vary(tiny_lm: Any) -> None:
    """Of one token there is nothing left to vary: each particle has the evidence, which is the sum over the tokens."""
    import torch

    lm = tiny_lm("a", "b", "e")
    weighted = wfsa([("s", "a", "t", 1.5), ("s", "b", "t", -2.0), ("s", "b", "t", 0.25)], "s", "t")
    task = lm.prompt("a", max_tokens=1)
    with torch.inference_mode():
        p = lm.model(torch.tensor([list(task.prompts[0].tokens)])).logits[0, -1].double().softmax(0).numpy()
    truth = math.log(p[1] * math.exp(1.5) + p[2] * (math.exp(-2.0) + math.exp(0.25)))
    result = fk.steer(task, weighted, particles=8, seed=0)
    np.testing.assert_allclose(result.log_weights + math.log(8), truth, atol=1e-5)


def test_a_weighted_automaton_has_one_name() -> None:
    assert repr(wfsa({"a": 1.0})) == "wfsa({'a': 1.0})"
    assert repr(wfsa([(0, "a", 0, 1.0)], 0, 0, name="counted")) == "counted"
