"""Choices, token lists and lengths: exact masks against a plain definition of what is accepted."""

from __future__ import annotations

import functools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from feynkac.base.errors import ArgumentError, ConstraintError
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials import choices, length, tokens
from feynkac.potentials.constraints.lengths import build_sentence_count
from feynkac.potentials.rewards.boundaries import boundaries

VOCABULARY = Vocabulary(
    (b"a", b"", b" a", b"\xc3", b"\xa9", "é".encode(), b" ", b"ab ", b"a", b"", b"\n", b""), (1, 9)
)  # fmt: skip


def decoded(text: bytes) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.text("ab é", max_size=4), min_size=1, max_size=5))
def test_choices_are_exact(explore: Any, texts: list[str]) -> None:
    vocabulary = Vocabulary((b"a", b"b", b"ab", b" ", b"\xc3", b"\xa9", b"b\xc3", b"a", b""), (8,))
    automaton = choices(iter(texts)).automaton(vocabulary)
    explore(automaton, vocabulary).check(lambda text: decoded(text) in texts, depth=3)


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 2), (1, 1), (2, 3), (0, None), (1, None), (2, None)])
def test_lengths_are_exact(explore: Any, low: int, high: int | None) -> None:
    def fits(n: int) -> bool:
        return n >= low and (high is None or n <= high)

    automaton = explore(length(low, high, "char").automaton(VOCABULARY), VOCABULARY)
    automaton.check(lambda text: decoded(text) is not None and fits(len(text.decode())), depth=3)
    automaton = explore(length(low, high, "word").automaton(VOCABULARY), VOCABULARY)
    automaton.check(lambda text: decoded(text) is not None and fits(len(text.decode().split())), depth=3)
    one_byte = Vocabulary((b"a", b"", b"b", b""), (1,))
    explore(length(low, high).automaton(one_byte), one_byte).check(lambda text: fits(len(text)), depth=4)


def sentences(text: str) -> int:
    """The boundaries at which rewards look, and what is left behind the last."""
    ends = boundaries(text, 0, "sentence")
    return len(ends) + bool(text[max(ends, default=0) :].strip())


count_once = functools.cache(build_sentence_count)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.text("ab.!…。！\"'”’」)» \n\t\x85\u3000é", max_size=14), st.integers(0, 3))
def test_sentences_end_where_rewards_look(text: str, low: int) -> None:
    for high in (None, low, low + 2):
        dfa, state, within = count_once(low, high), 0, 0
        for byte in text.encode():
            move = dfa.alphabet.step[within, byte]
            within = max(int(move), 0)
            state = int(dfa.delta[state, -2 - move]) if move <= -2 and state >= 0 else state
        accepted = state >= 0 and bool(dfa.accept[state])
        assert accepted == (low <= sentences(text) and (high is None or sentences(text) <= high))


@pytest.mark.parametrize(("low", "high"), [(0, 0), (1, 1), (2, None), (1, 2)])
def test_lengths_in_sentences_are_exact(explore: Any, low: int, high: int | None) -> None:
    vocabulary = Vocabulary((b"a", b". ", b".", b"\xe3\x80", b"\x82", "。」".encode(), b" ", b'"', b"b\n", b""), (9,))

    def fits(text: bytes) -> bool:
        whole = decoded(text)
        return whole is not None and low <= sentences(whole) and (high is None or sentences(whole) <= high)

    explore(length(low, high, "sentence").automaton(vocabulary), vocabulary).check(fits, depth=3)


def test_units_may_stand_in_the_plural() -> None:
    vocabulary = Vocabulary((b"a b. c d. ", b"a b", b""), (2,))
    for unit, n in (("token", 1), ("char", 10), ("character", 10), ("word", 4), ("sentence", 2)):
        for name in (unit, f"{unit}s"):
            automaton = length(n, n, name).automaton(vocabulary)  # type: ignore[arg-type]
            assert automaton.accepts(automaton.advance(np.array([0]), np.array([0])))[0]


def test_lengths_in_tokens_count_tokens_of_any_bytes(explore: Any) -> None:
    automaton = explore(length(2, 2).automaton(VOCABULARY), VOCABULARY)
    halves = automaton.after(automaton.after(0, 3), 3)
    assert automaton.accepts(halves)
    assert automaton.allowed(halves) == {1, 9}
    assert automaton.allowed(0) == {0, 2, 3, 4, 5, 6, 7, 8, 10}
    assert automaton.after(halves, 0) == -1 and automaton.after(-1, 0) == -1 and automaton.after(0, 11) == -1


def test_banned_and_allowed_tokens(explore: Any) -> None:
    everything = {0, 2, 3, 4, 5, 6, 7, 8, 10}
    for constraint, expected in [
        (tokens(ban=["a"]), everything - {0, 2, 7, 8}),
        (tokens(ban="a"), everything - {0, 2, 7, 8}),
        (tokens(ban=["é", 10, 11]), everything - {5, 10}),
        (tokens(allow=["a", 3, np.int64(4)]), {0, 8, 3, 4}),
        (tokens(allow=["a", " a", "é"], ban=[" "]), {0, 8, 5}),
        (tokens(allow=[]), set()),
    ]:
        automaton = explore(constraint.automaton(VOCABULARY), VOCABULARY)
        for sequence, states in automaton.sequences(2):
            assert automaton.accepts(states[-1]) == (states[-1] >= 0) == expected.issuperset(sequence)
            assert states[-1] < 0 or automaton.allowed(states[-1]) == expected | {1, 9}, constraint


def test_bad_arguments() -> None:
    for wrong, problem in [
        (lambda: choices("yes"), r"choices\(\['yes'\]\)"),
        (lambda: choices([1, 2]), "1 is no string"),  # type: ignore[list-item]
        (lambda: choices(["a", 1]), "1 is no string"),  # type: ignore[list-item]
        (lambda: choices(["a", ["b"]]), "no string"),  # type: ignore[list-item]
        (lambda: choices(3), "give a list of strings"),  # type: ignore[arg-type]
        (lambda: choices(b"ab"), "give a list of strings"),  # type: ignore[arg-type]
        (
            lambda: tokens(ban=["a", "Jonathanx"]).automaton(VOCABULARY),
            "contains 'Jonathanx'.*phrases",
        ),
        (lambda: tokens(ban=["\ud800"]).automaton(VOCABULARY), "half of a character"),
        (lambda: tokens(), "ban=... or"),
        (lambda: tokens(ban=[1.5]), "1.5 is neither"),  # type: ignore[list-item]
        (lambda: tokens(allow=[""]), "neither"),
        (lambda: length(-1), "not -1"),
        (lambda: length(0, 2.5), "not 2.5"),  # type: ignore[arg-type]
        (lambda: length(3, 2), "exchange"),
        (lambda: length(0, 1, "page"), "'token', 'character', 'word', 'sentence'"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(ArgumentError, match=problem):
            wrong()
    for wrong, problem in [
        (lambda: choices([]), "nothing to choose from"),
        (lambda: choices(["b!"]).automaton(VOCABULARY), "no sequence of this vocabulary's tokens"),
        (lambda: choices(["a", "b\ud800"]), "half of a character"),
        (lambda: tokens(ban=[12]).automaton(VOCABULARY), "no token 12 in a vocabulary of 12"),
        (lambda: tokens(ban=[9]).automaton(VOCABULARY), "token 9 ends a text"),
        (lambda: tokens(allow=["aé"]).automaton(VOCABULARY), "no single token has the text 'aé'"),
    ]:
        with pytest.raises(ConstraintError, match=problem):
            wrong()


def test_many_long_choices(explore: Any) -> None:
    bytewise = Vocabulary((*(bytes([b]) for b in range(256)), b""), (256,))
    texts = [f"option number {i}" for i in range(2000)]
    automaton = explore(choices(texts).automaton(bytewise), bytewise)
    state = 0
    for byte in b"option number 199":
        state = automaton.after(state, byte)
    assert automaton.allowed(state) == {*b"0123456789", 256}


def test_memory_of_long_choices_is_linear() -> None:
    tracemalloc.start()
    try:
        constraint = choices(["ab" * 30_000])
        dfa = constraint.dfa
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(dfa.delta) == 60_001 and peak < 64 << 20


@pytest.mark.parametrize("names", [None, 2.5, b"ab", bytearray(b"ab"), {"a": 1}])
def test_names_of_tokens_that_are_no_list_are_refused(names: Any) -> None:
    with pytest.raises(ArgumentError, match=r"tokens\(ban=.*\): give a list of token ids and texts"):
        tokens(ban=names)
    if names is not None:
        with pytest.raises(ArgumentError, match=r"tokens\(allow=.*\): give a list of token ids and texts"):
            tokens(allow=names)
