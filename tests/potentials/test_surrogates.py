"""Lone surrogates, which no text has, in the constraints that are made of text."""

from __future__ import annotations

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.errors import ArgumentError, ConstraintError
from feynkac.base.vocabulary import Vocabulary

BYTES = Vocabulary((b"", *(bytes([b]) for b in range(256))), eos=(0,))


def accepts(constraint, data: bytes) -> bool:
    automaton = constraint.automaton(BYTES)
    states = np.array([automaton.start])
    for byte in data:
        states = automaton.advance(states, np.array([byte + 1]))
    return bool(automaton.accepts(states)[0])


@pytest.mark.parametrize("pattern", ["\udcff", "[\ud800-\udfff]", "a\udcff", "[\udc00-\udc10]+", r"\udcff"])
def test_a_regex_of_lone_surrogates_matches_no_text(pattern) -> None:
    with pytest.raises(ConstraintError, match=r"matches no text at all|half of a character"):
        fk.regex(pattern).automaton(BYTES)


@pytest.mark.parametrize("pattern", ["a|\udcff", "[a\udcff]", "[\udcff-\uffff]|a"])
def test_a_lone_surrogate_beside_other_characters_is_left_out(pattern) -> None:
    assert accepts(fk.regex(pattern), b"a")
    assert not accepts(fk.regex(pattern), "\udcff".encode("utf-8", "surrogatepass"))


def test_choices_with_a_lone_surrogate_are_refused() -> None:
    with pytest.raises(ConstraintError, match=r"choices: '.udcff' holds '.udcff' at 0, half of a character"):
        fk.choices(["a", "\udcff"])


def test_tokens_that_are_no_text_are_refused() -> None:
    for arguments in ({"ban": ["\udcff"]}, {"allow": ["a", "\udcff"]}):
        with pytest.raises(ArgumentError, match="half of a character"):
            fk.tokens(**arguments)
