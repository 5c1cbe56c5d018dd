"""Potentials of genlm-control: by brute force with one of our own, and with the real ones where they are installed."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.potentials.compat.genlm import from_genlm


class NoTwoAlike:
    """Weighs exp(0.5 per a), and nothing where a token follows itself; a prefix of weight zero raises in logw_next."""

    def __init__(self, vocab: list[Any]) -> None:
        self.vocab = vocab

    def weigh(self, context: list[Any]) -> float:
        letters = [chr(x) if isinstance(x, int) else x.decode() for x in context]
        alike = any(x == y for x, y in itertools.pairwise(letters))
        return -math.inf if alike else 0.5 * letters.count("a")

    async def prefix(self, context: list[Any]) -> float:
        return self.weigh(context)

    async def complete(self, context: list[Any]) -> float:
        return self.weigh(context) if context else -math.inf

    async def logw_next(self, context: list[Any]) -> Any:
        now = await self.prefix(context)
        if now == -math.inf:
            raise ValueError("weight zero under prefix")
        next_ = [self.weigh([*context, token]) - now for token in self.vocab]
        end = await self.complete(context) - now
        return SimpleNamespace(decode=[*self.vocab, "EOS"], weights=np.array([*next_, end]))


def by_brute_force(lm: Any, longest: int) -> float:
    """Log of the sum over all texts, each once with each way to end."""
    listed = fk.steer(lm.prompt("a", max_tokens=longest), algorithm="exact")
    fake = NoTwoAlike([b"a", b"b"])
    terms = [
        weight + (fake.weigh([letter.encode() for letter in text]) if text else -math.inf)
        for text, weight in zip(listed.samples, listed.log_weights, strict=True)
    ]
    return float(np.logaddexp.reduce(terms))


@pytest.mark.parametrize("vocab", [[b"b", b"a"], [97, 98], [b"a", b"b", b"ab"]])
def test_a_potential_of_genlm_has_the_target_of_its_complete_weights(tiny_lm, vocab: list[Any]) -> None:
    lm = tiny_lm("a", "b", seed=3)
    potential = from_genlm(NoTwoAlike(vocab), lm)
    task = lm.prompt("a", max_tokens=3)
    wanted = by_brute_force(lm, 3)
    assert fk.steer(task, potential, algorithm="exact").log_evidence == pytest.approx(wanted, abs=1e-9)
    report = fk.check(task, potential)
    assert report.faults == []
    assert any("E[Z] = Z" in line for line in report.passed)


def test_what_knows_the_next_tokens_guides_them(tiny_lm) -> None:
    lm = tiny_lm("a", "b", seed=3)
    report = fk.check(lm.prompt("a", max_tokens=3), from_genlm(NoTwoAlike([b"a", b"b", b"ab"]), lm), particles=8)
    assert report.faults == []
    assert any(line.startswith("the guide of 'NoTwoAlike'") for line in report.passed)


@pytest.mark.parametrize("vocab", [[b"a", b"b", b"ab"], [b"a", b"b"], [97, 98]])
def test_a_text_with_a_token_that_they_have_not_weighs_nothing(tiny_lm, vocab: list[Any]) -> None:
    lm = tiny_lm("a", "b", "e")
    potential = from_genlm(NoTwoAlike(vocab), lm)
    found = fk.steer(lm.prompt("a", max_tokens=2), potential, algorithm="exact")
    weighed = [text for text, weight in zip(found.samples, found.log_weights, strict=True) if weight > -math.inf]
    assert weighed and all("e" not in text for text in weighed)


def test_what_is_no_such_potential_is_refused(tiny_lm) -> None:
    lm = tiny_lm("a", "b")
    with pytest.raises(fk.ArgumentError, match="give an instance with vocab"):
        from_genlm(NoTwoAlike, lm)
    with pytest.raises(fk.ArgumentError, match="no token of the language model"):
        from_genlm(NoTwoAlike([b"xy", b"z"]), lm)
    with pytest.raises(fk.ArgumentError, match="which is no bytes"):
        from_genlm(NoTwoAlike(["a", "b"]), lm)
    with pytest.raises(fk.ArgumentError, match="which is no bytes"):
        from_genlm(NoTwoAlike([7, 300]), lm)
