"""Masks that know how many tokens are left: what they leave out is exactly what cannot be completed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from feynkac.base.errors import ConstraintError
from feynkac.base.masks import count_least, mask_within, unpack
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials import choices, length, regex, tokens
from feynkac.potentials.constraints.automata import dfa, trie

PIECES = [b"a", b"b", b"ab", b"ba", b"aab", b"bbbb", "é".encode(), b"\xc3", b"\xa9", b"\xa9a", b"b\xc3", b"aaaa", b""]
PATTERNS = ["a{3}", "a{0,5}b", "(ab|ba){2,4}", "aaaa|b", "é{2}b", "(a|b)*bbb", "[^b]*", "a{2}(b{3}|é)", "(?s:.{4})", ""]


def allowed_within(automaton: Any, state: int, left: int) -> set[int]:
    mask = mask_within(automaton, np.array([state]), np.array([left]))
    return set(np.flatnonzero(unpack(mask, 32 * mask.shape[1])[0]).tolist())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(PATTERNS), st.lists(st.sampled_from(PIECES), min_size=2, max_size=6))
def test_a_token_is_allowed_iff_it_can_be_completed_within_the_limit(
    explore: Any, pattern: str, pieces: list[bytes]
) -> None:
    vocabulary = Vocabulary((b"", *pieces, b""), (0,))
    try:
        automaton = regex(pattern).automaton(vocabulary)
    except ConstraintError:
        return
    explore(automaton, vocabulary).check_budget(2, 6)


@pytest.mark.parametrize("limits", [(0, None), (3, None), (2, 4), (5, 5)])
@pytest.mark.parametrize("unit", ["token", "char", "word", "sentence"])
def test_lengths_know_what_is_left(explore: Any, limits: Any, unit: Any) -> None:
    vocabulary = Vocabulary((b"", b"a", b" ", b"a a", b"aaa", *([b". "] if unit == "sentence" else [])), (0,))
    explore(length(*limits, unit=unit).automaton(vocabulary), vocabulary).check_budget(3, 6)


def test_the_answers_do_not_depend_on_what_was_asked_before() -> None:
    vocabulary = Vocabulary((b"", b"a", b"b", b"aaa", b"ab", b"bb"), (0,))
    questions = [(state, left) for state in range(20) for left in range(9)]
    answers = []
    for order in (questions, questions[::-1], sorted(questions, key=lambda pair: (pair[1], -pair[0]))):
        automaton = regex("(a|b){7}(ab|b){3,5}b").automaton(vocabulary)
        live = automaton._alive.reshape(-1) == trie.LIVE  # type: ignore[attr-defined]
        found = {(s, n): allowed_within(automaton, s, n) for s, n in order if s < len(live) and live[s]}
        answers.append(found)
    assert answers[0] == answers[1] == answers[2] and len(answers[0]) > 50


def test_where_looking_ahead_takes_too_long_the_bytes_decide(explore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens hold three bytes at most: that alone is known of (ab){3}, and never too much."""
    monkeypatch.setattr(dfa, "_FAR", 0)
    vocabulary = Vocabulary((b"", b"a", b"b", b"aba"), (0,))
    automaton = regex("(ab){3}").automaton(vocabulary)
    assert allowed_within(automaton, 0, 1) == set()
    assert allowed_within(automaton, 0, 2) == {3}
    assert allowed_within(automaton, 0, 3) == {1, 3}
    exact = explore(automaton, vocabulary)
    assert len(exact.completion(0)) == 4


@pytest.mark.parametrize(
    "pattern", [r"(\w{1,20} ){3,8}\w+\.", r"[^eE\n]{80,}", r"(?i)(the|a) .{10,40}[^\x00-\x7f]{3}$", r"(\{\d{3}\} ?){9}"]
)
def test_walks_under_a_limit_end_in_time(smollm2: Any, pattern: str) -> None:
    """A real vocabulary: drawn evenly among the masked tokens no text is lost, be the limit as tight as may be."""
    from tokenizers import Tokenizer

    vocabulary = Vocabulary.from_tokenizer(Tokenizer.from_file(str(smollm2 / "tokenizer.json")), eos=[0, 2])
    automaton, rng = regex(pattern).automaton(vocabulary), np.random.default_rng(0)
    least = count_least(automaton)
    assert not allowed_within(automaton, 0, least - 1)
    for limit in (least, least + 1, least + 5):
        for _ in range(6):
            state = np.zeros(1, dtype=np.int64)
            for written in range(limit):
                allowed = allowed_within(automaton, int(state[0]), limit - written) - {0, 2}
                if not allowed:
                    break
                state = automaton.advance(state, np.array([rng.choice(sorted(allowed))]))
            assert automaton.accepts(state)[0]


def test_a_long_answer_is_begun_only_if_it_can_be_ended(explore: Any) -> None:
    answer = "a very long answer of many tokens"
    single = [bytes([b]) for b in sorted(set(answer.encode()))]
    vocabulary = Vocabulary((b"", b"no", *(word.encode() for word in answer.split()), *single), (0,))
    automaton = choices([answer, "no"]).automaton(vocabulary)
    for left in range(1, 4):
        texts = {vocabulary.tokens[v][:1] for v in allowed_within(automaton, 0, left)}
        assert texts == {b"n"}
    assert {vocabulary.tokens[v][:1] for v in allowed_within(automaton, 0, 40)} == {b"n", b"a"}


def test_the_least_number_of_tokens_is_known() -> None:
    vocabulary = Vocabulary((b"", b"a", b"b", b"ab", b"bb"), (0,))
    for constraint, least in ((regex("(ab){5}bb"), 6), (regex("a*"), 0), (length(min=7), 7), (choices(["b", "aa"]), 1)):
        assert count_least(constraint.automaton(vocabulary)) == least
    assert count_least(length(min=99).automaton(vocabulary), most=10) == 10


def test_bans_of_tokens_need_nothing_more(explore: Any) -> None:
    vocabulary = Vocabulary((b"", b"a", b"b"), (0,))
    explore(tokens(ban=["a"]).automaton(vocabulary), vocabulary).check_budget(2, 3)
