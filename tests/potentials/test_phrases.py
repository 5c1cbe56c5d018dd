"""Banned and required phrases: exact masks against `phrase in text`, and against Python's engine where case is none."""

from __future__ import annotations

import pickle
import re
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import feynkac as fk
from feynkac.base.errors import ArgumentError, ConstraintError
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials import phrases, tokens
from feynkac.potentials.constraints.automata.characters import list_variants

BYTEWISE = Vocabulary((*(bytes([b]) for b in range(256)), b""), (256,))
PIECES = [b"a", b"b", b"ab", b"ba", "é".encode(), b"\xc3", b"\xa9", b"\xa9a", b"b\xc3", "É".encode(), b"A", b"a\xe2"]


def decoded(text: bytes) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def meets(text: str | None, ban: list[str], require: list[str], ignore_case: bool) -> bool:
    def holds(phrase: str) -> bool:
        return bool(re.search(re.escape(phrase), text or "", re.IGNORECASE)) if ignore_case else phrase in (text or "")

    return text is not None and not any(map(holds, ban)) and all(map(holds, require))


lists = st.lists(st.text("abéÉ", min_size=1, max_size=3), max_size=2)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(lists, lists, st.booleans(), st.lists(st.sampled_from(PIECES), min_size=2, max_size=6))
def test_masks_of_phrases_are_exact(explore: Any, ban: Any, require: Any, ignore_case: bool, pieces: Any) -> None:
    if not ban and not require:
        return
    vocabulary = Vocabulary((*pieces, b""), (len(pieces),))
    try:
        automaton = phrases(ban, require, ignore_case=ignore_case).automaton(vocabulary)
    except ConstraintError:
        texts = [vocabulary.bytes(ids) for n in range(4) for ids in np.ndindex(*[len(pieces)] * n)]
        assert not any(meets(decoded(text), ban, require, ignore_case) for text in texts)
        return
    explore(automaton, vocabulary).check(lambda text: meets(decoded(text), ban, require, ignore_case), depth=3)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.text("aAkKsSſiIİıéß€\u212a", min_size=1, max_size=3), min_size=1, max_size=4),
    st.lists(st.text("aAkKsSſiIİıéßẞ€\u212a.", max_size=8), min_size=10, max_size=10),
    st.booleans(),
)
def test_letters_without_case_are_those_of_python(ban: list[str], texts: list[str], ignore_case: bool) -> None:
    automaton = phrases(ban, ignore_case=ignore_case).automaton(BYTEWISE)
    for text in texts:
        state = np.zeros(1, np.int64)
        for byte in text.encode():
            state = automaton.advance(state, np.array([byte]))
        assert automaton.accepts(state)[0] == meets(text, ban, [], ignore_case), text


def test_the_letters_that_case_has_are_found() -> None:
    """Against Python's engine asked of every character there is."""
    from feynkac.potentials.constraints.automata.characters import match_characters

    for char in "kKsßẞiİıµμǅ.é中\u0345\U00010400":
        ranges = match_characters(re.escape(char), re.IGNORECASE)
        assert set(list_variants(char)) == {chr(c) for low, high in ranges for c in range(low, high)}


def test_thousands_of_banned_phrases_are_one_automaton(smollm2: Any) -> None:
    from tokenizers import Tokenizer

    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij éü"), size=rng.integers(4, 12))) for _ in range(3000)]
    began = time.process_time()
    constraint = phrases(ban=words, ignore_case=True)
    assert time.process_time() - began < 10.0  # a second; the machine may be busy
    vocabulary = Vocabulary.from_tokenizer(Tokenizer.from_file(str(smollm2 / "tokenizer.json")), eos=[0, 2])
    automaton, state, path = constraint.automaton(vocabulary), np.zeros(1, np.int64), []
    for _ in range(12):
        allowed = np.unpackbits(automaton.masks(state).view(np.uint8), bitorder="little")[: vocabulary.size]
        path.append(int(rng.choice(np.flatnonzero(allowed & vocabulary.with_text))))
        state = automaton.advance(state, np.array(path[-1:]))
        text = vocabulary.bytes(path).decode(errors="replace")
        assert state[0] >= 0 and not any(word.lower() in text.lower() for word in words)


def test_a_phrase_that_is_required_and_banned_is_refused_where_it_is_written() -> None:
    for ban, require in ((["rain"], ["rain"]), (["a"], ["bar"]), (["A"], ["bar"])):
        with pytest.raises(ConstraintError, match="no text at all meets it"):
            phrases(ban, require, ignore_case=True)
    assert phrases(["A"], ["bar"]).name == "phrases(ban=['A'], require=['bar'])"


def test_too_many_required_phrases_are_refused_by_name() -> None:
    with pytest.raises(ConstraintError, match=r"too large; multiply several.*phrases\(require=a\) \* "):
        phrases(require=[f"phrase number {i}" for i in range(30)])


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: phrases(), "name the phrases"),
        (lambda: phrases(ban=[""]), "empty phrase"),
        (lambda: phrases(ban=["a", 1]), "1 is no string"),  # type: ignore[list-item]
        (lambda: phrases(require=b"a"), "give a list of strings"),  # type: ignore[arg-type]
        (lambda: phrases(ban=3), "give a list of strings"),  # type: ignore[arg-type]
        (lambda: phrases(ban=["\ud800"]), "half of a character"),
        (lambda: phrases(ban="a", ignore_case="yes"), "give True or False"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_phrase_is_refused(make: Any, problem: str) -> None:
    with pytest.raises(ArgumentError, match=problem):
        make()


def test_the_error_of_a_token_that_bans_nothing_names_phrases() -> None:
    vocabulary = Vocabulary((b"", b"Jonathan", b"x"), (0,))
    with pytest.raises(ArgumentError, match=r"use phrases\(ban=\['Jonathanx'\]\)"):
        tokens(ban=["Jonathanx"]).automaton(vocabulary)


def test_phrases_survive_a_pickle_and_steer(tiny_lm: Any) -> None:
    constraint = pickle.loads(pickle.dumps(phrases(ban=["ab"], require=["ba"])))
    result = fk.steer(tiny_lm("a", "b").prompt("a", max_tokens=6), constraint, particles=16, seed=0)
    assert all("ab" not in text and "ba" in text for text in result.posterior())
