"""A context is asked how probable a text would be, and stays as it is."""

from __future__ import annotations

import math

import pytest
from brute_force import law

import feynkac as fk
from feynkac.base.errors import ProgramError


@fk.program
def ask(p, lm, text):
    """Two samples with a question between them; particles are forked behind it."""
    context = lm.context("a")
    first = p.sample(context.next_token())
    if context.ended:
        return "", 0.0
    asked = context.log_prob(text)
    assert str(context) == str(first)
    p.twist(3.0 * (first == "b"))
    p.sample(context.next_token())
    return str(first), asked


@pytest.mark.parametrize("given", ["ab", "", "</s>a"])
def test_a_text_is_as_probable_as_its_tokens(tiny_lm, given: str) -> None:
    lm = tiny_lm("a", "b", seed=1)
    p = law(lm, "a")
    tokens = given.replace("</s>", "\0")
    found = fk.steer(ask(lm, given), particles=16, ess_threshold=1.0, seed=0)
    assert {first for first, _ in found.samples} >= {"a", "b"}
    for first, asked in found.samples:
        if first and "\0" not in tokens:
            truth = sum(math.log(p(first + given[:i], c)) for i, c in enumerate(given))
            assert asked == pytest.approx(truth, abs=2e-6)
        elif first:
            assert -math.inf < asked < math.log(p(first, ""))


def test_tokens_are_asked_for_as_a_text_is(tiny_lm) -> None:
    lm = tiny_lm("a", "b")
    asked = [dict(fk.steer(ask(lm, given), particles=8, seed=0).samples) for given in ("ab", [1, 2])]
    assert asked[0] == pytest.approx(asked[1], abs=2e-6)


def test_what_is_known_of_the_next_token_counts(tiny_lm) -> None:
    @fk.program
    def masked(p, lm):
        text = lm.context("a")
        p.observe(text.mask(["b"]), True)
        return p.sample(fk.Bernoulli(0.5)), text.log_prob("b"), text.log_prob("a")

    for _, b, a in fk.steer(masked(tiny_lm("a", "b")), particles=2, seed=0).samples:
        assert b == pytest.approx(0.0, abs=1e-6) and a == -math.inf


def test_a_text_that_has_ended_is_not_asked(tiny_lm) -> None:
    @fk.program
    def late(p, lm):
        text = lm.context("a")
        p.observe(text.next_token(), text.eos)
        return text.log_prob("a")

    with pytest.raises(ProgramError, match="has ended"):
        fk.steer(late(tiny_lm("a", "b")), particles=2, seed=0)
