"""Markov chains of tokens, and how likely they are to be accepted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials.twists import MarkovTwist
from feynkac.potentials.twists.acceptance import Acceptance, Places
from feynkac.potentials.twists.chains import fit_chain

WORDS = Vocabulary((b"", b"a", b"b", b"ab"), eos=(0,))


@pytest.fixture
def chain() -> fk.TokenChain:
    law = np.random.default_rng(1).dirichlet(np.ones(4), size=3)
    return fk.TokenChain(WORDS, np.array([0, 1, 2, 1]), law)


def place(state: int, last: int, left: int, limit: int, end: bool) -> Places:
    return Places(*(np.array([value]) for value in (state, last, left, limit, end)))


def guide_from(acceptance: Acceptance, where: Places) -> np.ndarray:
    rows, which, least = acceptance.guide(where)
    return np.maximum(rows[which], least[:, None])[0]


def accepted(chain: fk.TokenChain, automaton, state: int, last: int, left: int, end: bool) -> float:
    """The probability that the chain goes on to an accepted text, by a sum over all of them."""
    total = 0.0
    for length in range(left + 1):
        for text in itertools.product((1, 2, 3), repeat=length):
            p, at, before = 1.0, np.array([state]), last
            for token in text:
                p *= chain.law[chain.classes[before], token]
                at, before = automaton.advance(at, np.array([token])), token
            if automaton.accepts(at)[0]:
                total += p * (1.0 if length == left and not end else chain.law[chain.classes[before], 0])
    return total


@pytest.mark.parametrize("end", [True, False])
def test_the_level_is_the_probability_of_acceptance_under_the_chain(chain, end) -> None:
    automaton = fk.regex("(ab|b)*a?b{2}").automaton(WORDS)
    acceptance = Acceptance(chain, automaton, "test")
    for tokens in ([1], [3], [2, 1], [3, 2, 2]):
        state = automaton.start
        for token in tokens:
            state = int(automaton.advance(np.array([state]), np.array([token]))[0])
        for left in range(5):
            truth = accepted(chain, automaton, state, tokens[-1], left, end)
            if truth > 0:
                found = acceptance.level(place(state, tokens[-1], left, 5, end))[0]
                assert found == pytest.approx(np.log(truth), abs=1e-5)  # the law is float32


def test_a_guide_is_the_level_behind_each_token(chain) -> None:
    automaton = fk.regex("[ab]*b").automaton(WORDS)
    acceptance = Acceptance(chain, automaton, "test")
    guide = guide_from(acceptance, place(automaton.start, 1, 3, 4, False))
    for token in (1, 2, 3):
        after = int(automaton.advance(np.array([automaton.start]), np.array([token]))[0])
        assert guide[token] == pytest.approx(acceptance.level(place(after, token, 2, 4, False))[0], abs=1e-6)
    level = acceptance.level(place(automaton.start, 1, 3, 4, False))[0]
    assert guide[0] == pytest.approx(level - 10.0, abs=1e-5)  # the empty text is not accepted: as rare as it gets
    accepting = int(automaton.advance(np.array([automaton.start]), np.array([2]))[0])
    assert guide_from(acceptance, place(accepting, 2, 3, 4, False))[0] == 0.0


def test_a_chain_is_saved_and_loaded(chain, tmp_path) -> None:
    np.savez(tmp_path / "chain.npz", classes=chain.classes, law=chain.law)
    with np.load(tmp_path / "chain.npz") as saved:
        again = fk.TokenChain(WORDS, **saved)
    assert (again.classes == chain.classes).all() and (again.law == chain.law).all()


def test_rare_tokens_share_a_class_with_those_that_end_alike() -> None:
    vocabulary = Vocabulary((b"", b"sing", b"king", b"a", b"ring"), eos=(0,))
    law = np.eye(5, dtype=np.float32)
    chain = fit_chain(vocabulary, {1: 8 * law[3], 2: 4 * law[3], 3: 4 * law[1]}, {1: 8, 2: 4, 3: 4})
    assert chain.law[chain.classes[4]].argmax() == 3 and chain.law[chain.classes[3]].argmax() == 1
    np.testing.assert_allclose(chain.law.sum(axis=1), 1.0, atol=1e-6)
    assert chain.law.min() >= 1e-3 / 5 * 0.99
    few = fit_chain(vocabulary, {1: 8 * law[3], 2: 4 * law[3], 3: 4 * law[1]}, {1: 8, 2: 4, 3: 4}, most=1)
    assert len(few) == 1 and (few.classes == 0).all()


@pytest.mark.parametrize(
    "classes, law, said",
    [
        ([0, 0, 0], np.full((1, 4), 0.25), "over 4 tokens they are"),
        ([0, 0, 0, 1], np.full((1, 4), 0.25), "whole numbers from 0 to 0"),
        ([0, 0, 0, 0], np.full((1, 4), 0.5), "sum to at most 1"),
        ([0, 0, 0, 0], np.array([[0.5, np.nan, 0, 0]]), "holds probabilities"),
    ],
)
def test_a_wrong_chain_is_refused(classes, law, said) -> None:
    with pytest.raises(fk.ArgumentError, match=said):
        fk.TokenChain(WORDS, np.array(classes), law)


def test_a_constraint_without_a_finite_automaton_is_refused_by_name(chain) -> None:
    with pytest.raises(fk.ConstraintError, match=r"markov_twist\(grammar.*outline=regex"):
        MarkovTwist(chain, fk.grammar('start: "a" start "b" | "b"'))


def test_an_automaton_of_too_many_states_is_refused_by_name(chain) -> None:
    with pytest.raises(fk.ConstraintError, match="too large for a Markov twist"):
        MarkovTwist(chain, fk.regex("[ab]{3000}"))


@pytest.mark.parametrize("constraint", [fk.length(max=3), fk.tokens(ban=["ab"]), fk.length(2, 5, "character")])
def test_constraints_of_few_states_have_twists(chain, constraint) -> None:
    assert repr(MarkovTwist(chain, constraint)).startswith("markov_twist(")


def test_a_schema_has_an_outline(chain) -> None:
    assert fk.json_schema({"type": "object", "properties": {}}).outline is not None
