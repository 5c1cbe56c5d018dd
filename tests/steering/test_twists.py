"""Twists made for a task."""

from __future__ import annotations

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.capabilities import Guides, has


@pytest.fixture
def lm(tiny_lm):
    return tiny_lm("a", "b", seed=3)


def test_a_twist_is_learnt_and_steers(lm) -> None:
    task, pattern = lm.prompt("a", max_tokens=8, at_limit="end"), fk.regex("[ab]*bb")
    twist = fk.markov_twist(task, pattern, runs=32, seed=0)
    again = fk.markov_twist(task, pattern, runs=32, seed=0)
    np.testing.assert_array_equal(twist.chain.law, again.chain.law)
    known = fk.markov_twist(task, pattern, chain=twist.chain)
    results = [fk.steer(task, pattern, each, particles=16, seed=1) for each in (twist, again, known)]
    for result in results[1:]:
        assert result.texts == results[0].texts and (result.log_weights == results[0].log_weights).all()


def test_a_twist_that_does_not_guide_leaves_the_draws_to_the_model(lm) -> None:
    """One particle is never resampled, so that it writes what it writes without a twist, and weighs the same."""
    task, pattern = lm.prompt("a", max_tokens=8, at_limit="end"), fk.regex("[ab]*bb")
    chain = fk.markov_twist(task, pattern, runs=32, seed=0).chain
    level, twist = (fk.markov_twist(task, pattern, chain=chain, guide=guide) for guide in (False, True))
    for seed in range(5):
        alone, with_level = (fk.steer(task, pattern, *more, particles=1, seed=seed) for more in ((), (level**2,)))
        assert with_level.texts == alone.texts and with_level.log_evidence == pytest.approx(alone.log_evidence)
    assert not has(level, Guides) and not has(level**2, Guides) and has(twist, Guides)


def test_a_grammar_has_a_twist_by_an_outline(lm) -> None:
    task, grammar = lm.prompt("a", max_tokens=6, at_limit="end"), fk.grammar('start: "a" start "b" | "b"')
    twist = fk.markov_twist(task, grammar, outline=fk.regex("a*b+"), runs=32, seed=0)
    result = fk.steer(task, grammar, twist, particles=16, seed=0)
    assert all(len(text) == 2 * text.count("a") + 1 for text in result.texts)


def test_wrong_arguments_are_refused_by_name(lm) -> None:
    task, pattern = lm.prompt("a", max_tokens=3), fk.regex("a*b")
    for wrong, said in (
        (lambda: fk.markov_twist("a", pattern), "give a prompt first"),
        (lambda: fk.markov_twist(task, "a*b"), "constraint='a\\*b'"),
        (lambda: fk.markov_twist(task, None), "constraint=None"),
        (lambda: fk.markov_twist(task, pattern, outline="a"), "outline='a'"),
        (lambda: fk.markov_twist(task, pattern, chain=1), "give a TokenChain"),
        (lambda: fk.markov_twist(task, pattern, runs=0), "runs is 0"),
        (lambda: fk.markov_twist(task, pattern, guide="no"), "guide='no'"),
    ):
        with pytest.raises(fk.ArgumentError, match=said):
            wrong()


def test_a_twist_for_another_model_is_refused_by_name(lm, tiny_lm) -> None:
    pattern = fk.regex("a*b")
    twist = fk.markov_twist(lm.prompt("a", max_tokens=3), pattern, runs=8, seed=0)
    with pytest.raises(fk.PotentialError, match="tokens of another model"):
        fk.steer(tiny_lm("a", "b", seed=4).prompt("a", max_tokens=3), pattern, twist, particles=4, seed=0)
