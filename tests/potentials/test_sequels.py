"""Free text up to a marker, then a constraint: against brute force over all texts of small vocabularies."""

from __future__ import annotations

import copy
import json
import pickle
import re
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.errors import AllParticlesDied, ArgumentError, ConstraintError
from feynkac.base.masks import count_least, unpack
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials.constraints import sequels

WHOLE = ("a", "b", "<", ">")
STRADDLING = ("a", "<", ">", "<>", "a<", ">a", "><>b", "b", "a<>ba")
OVERLAPPING = ("a", "aab", "b", "ba")
UNSPELT = ("<", ">a", ">ab", "x")  # neither "a" nor "ab" is a token


def make(*tokens: str) -> Vocabulary:
    return Vocabulary((b"", *(token.encode() for token in tokens), b""), eos=(0,))


def oracle(marker: str, pattern: str) -> Any:
    def accepts(text: bytes) -> bool:
        _, found, rest = text.decode().partition(marker)
        return bool(found) and re.fullmatch(pattern, rest) is not None

    return accepts


@pytest.mark.parametrize(
    ("tokens", "marker", "pattern"),
    [
        (WHOLE, "<>", "a?b?"),
        (WHOLE, "<", "[ab<]{1,2}"),
        (STRADDLING, "<>", "(ab?|b)*"),
        (STRADDLING, "<>", "b?"),
        (STRADDLING, "<>", "a"),
        (OVERLAPPING, "aa", "b*"),
        (OVERLAPPING, "aab", "(ba)?"),
        (OVERLAPPING, "abaa", "b"),
        (UNSPELT, "<>", "ab?(x|<)*"),
    ],
)
def test_masks_and_acceptance_are_those_of_all_texts(explore, tokens, marker, pattern) -> None:
    """However the marker is cut into tokens, and where one token ends it and goes on."""
    vocabulary = make(*tokens)
    automaton = fk.after(marker, fk.regex(pattern)).automaton(vocabulary)
    explore(automaton, vocabulary).check(oracle(marker, pattern), 4 if len(tokens) > 4 else 6)


@pytest.mark.parametrize(
    ("tokens", "marker", "pattern"),
    [
        (WHOLE, "<>", "a?b{2}"),
        (STRADDLING, "<>", "a{2}|b"),
        (OVERLAPPING, "aab", "(ba){2}"),
        (UNSPELT, "<>", "ab(x|<){2}"),
    ],
)
def test_marker_and_answer_are_begun_in_time(explore, tokens, marker, pattern) -> None:
    vocabulary = make(*tokens)
    automaton = fk.after(marker, fk.regex(pattern)).automaton(vocabulary)
    explore(automaton, vocabulary).check_budget(3, 8, exact=tokens is not UNSPELT)


@pytest.mark.parametrize("marker", ["<", 9])
def test_what_an_answer_leaves_to_be_checked_is_checked(population, marker) -> None:
    """The schema lets masks through what is checked on whole texts: behind the marker, too, be it a text or an id."""
    vocabulary = Vocabulary((b"", b"1", b"<", b"[", b"]", b",", b"a", b"<[", b"1,", b""), eos=(0,))
    answer = fk.after(marker, fk.json_schema({"type": "array", "uniqueItems": True}))
    mark = 2 if marker == "<" else marker
    right, wrong = [6, mark, 3, 1, 4], [6, mark, 3, 8, 1, 4]
    straddling = [7, 8, 1, 4] if marker == "<" else wrong
    state = population([right, wrong, straddling], vocabulary)
    assert answer.final(state, np.arange(3)).tolist() == [0.0, -np.inf, -np.inf]


def test_a_marker_in_a_marker(explore) -> None:
    vocabulary = make(*STRADDLING)

    def accepts(text: bytes) -> bool:
        return re.fullmatch("(?s:((?!<>).)*<>[^b]*b(a|b))", text.decode()) is not None

    automaton = fk.after("<>", fk.after("b", fk.choices(["a", "b"]))).automaton(vocabulary)
    explore(automaton, vocabulary).check(accepts, 4)


def test_a_grammar_behind_a_marker(explore) -> None:
    vocabulary = Vocabulary((b"", *(bytes([b]) for b in range(256)), b">[", b'>["', b">x", b"]]"), eos=(0,))
    constraint = fk.after("</t>", fk.json_schema({"type": "array", "items": {"enum": [1, "a"]}}))
    automaton = constraint.automaton(vocabulary)

    def read(*tokens: bytes) -> list[int]:
        states = [automaton.start]
        for token in tokens:
            found = automaton.advance(np.array([states[-1]]), np.array([vocabulary.tokens.index(token, 1)]))
            states.append(int(found[0]))
        return states

    thoughts = [bytes([b]) for b in b"hm {} </t"]
    ends = [(b">", b"[", b"]"), (b">[", b"]"), (b'>["', b"a", b'"', b"]"), (b">[", b"1", b"]")]
    for end in ends:
        assert automaton.accepts(np.array(read(*thoughts, *end))).tolist() == [False] * (len(thoughts) + len(end)) + [
            True
        ]
    assert read(*thoughts, b">x")[-1] == -1
    mask = automaton.masks(np.array([read(*thoughts)[-1]]))[0]
    assert not mask[vocabulary.tokens.index(b">x") >> 5] >> np.uint32(vocabulary.tokens.index(b">x") & 31) & 1
    assert automaton.masks(np.array(read(*thoughts, *ends[0])[-1:]))[0][0] & 1


def test_a_marker_that_is_a_control_token(explore) -> None:
    vocabulary = make("a", "b")  # id 3 has no text
    automaton = fk.after(np.int64(3), fk.regex("b+")).automaton(vocabulary)
    walk = explore(automaton, vocabulary)
    assert walk.allowed(automaton.start) == {1, 2, 3}
    behind = walk.after(walk.after(automaton.start, 1), 3)
    assert walk.allowed(behind) == {2} and walk.allowed(walk.after(behind, 2)) == {0, 2}
    assert not walk.accepts(behind) and walk.accepts(walk.after(behind, 2))


def test_tokens_are_counted_behind_the_marker_only(explore) -> None:
    vocabulary = make(*STRADDLING)
    walk = explore(fk.after("<>", fk.length(max=1)).automaton(vocabulary), vocabulary)
    ids = {token.decode(): i for i, token in enumerate(vocabulary.tokens)}
    state = walk.automaton.start
    for token in ("a", "a", "<"):
        state = walk.after(state, ids[token])
    assert walk.allowed(walk.after(state, ids[">a"])) == {0}  # "a" is the one token
    assert walk.allowed(walk.after(state, ids[">"])) == {0, *walk.text_ids}


def test_an_automaton_of_tokens_far_apart_keeps_within_the_vocabulary(explore) -> None:
    """The constraint's own vocabulary is larger by the rests that no tokens spell, and may cross a word of the mask."""
    tokens = ["<", ">a", ">ab", *(chr(0x100 + i) for i in range(28))]
    vocabulary = make(*tokens)
    assert vocabulary.size == 33
    automaton = fk.after("<>", fk.regex("(?s:.*)")).automaton(vocabulary)
    walk = explore(automaton, vocabulary)
    state = walk.after(walk.after(automaton.start, 1), 2)
    assert automaton.masks(np.array([state])).shape == (1, 2)
    assert walk.allowed(state) == {0, *walk.text_ids}


@pytest.mark.parametrize(
    ("make_it", "error", "message"),
    [
        (lambda: fk.after("", fk.regex("a")), ArgumentError, "the marker is empty"),
        (lambda: fk.after(b"x", fk.regex("a")), ArgumentError, "give the marker as text"),  # type: ignore[arg-type]
        (lambda: fk.after(-1, fk.regex("a")), ArgumentError, "give the marker as text"),
        (lambda: fk.after(True, fk.regex("a")), ArgumentError, "give the marker as text"),
        (lambda: fk.after("\ud83d", fk.regex("a")), ArgumentError, "half of a character"),
        (lambda: fk.after("x", "a"), ArgumentError, "give one constraint on tokens"),  # type: ignore[arg-type]
        (lambda: fk.after("x", fk.regex("a") * fk.regex("b")), ArgumentError, r"after\(m, a\) \* after\(m, b\)"),  # type: ignore[arg-type]
        (lambda: fk.after("x", fk.constraint(bool)), ArgumentError, "text.partition"),  # type: ignore[arg-type]
        (lambda: fk.after("x", fk.regex("a")).automaton(make("a")), ConstraintError, "tokens spells the marker"),
        (lambda: fk.after("a", fk.regex("x")).automaton(make("a")), ConstraintError, "no sequence of this vocabulary"),
        (lambda: fk.after(0, fk.regex("a")).automaton(make("a")), ConstraintError, "0 is an end of sequence, or no"),
        (lambda: fk.after(9, fk.regex("a")).automaton(make("a")), ConstraintError, "9 is an end of sequence, or no"),
    ],
)
def test_what_is_no_marker_and_no_constraint_is_refused(make_it, error, message) -> None:
    with pytest.raises(error, match=message):
        make_it()


def test_what_is_checked_on_whole_texts_is_checked_behind_the_marker(tiny_lm) -> None:
    lm = tiny_lm("a", "[", "]", "1", ",", "2", eos=(0,))
    unique = fk.json_schema({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, whitespace="compact")
    constraint = fk.after("a", unique)
    result = fk.steer(lm.prompt("a", max_tokens=7), constraint, particles=64, seed=0)
    answers = {text: json.loads(text.partition("a")[2]) for text in result.posterior()}
    assert any(len(answer) > 1 for answer in answers.values())
    assert all(len(set(answer)) == len(answer) for answer in answers.values())
    assert [constraint.read(text) for text in answers] == list(answers.values())

    @fk.program
    def spans(p):
        return p.sample(lm.context("a").gen(constraint, max_tokens=7))

    for text, w in zip((found := fk.steer(spans(), particles=64, seed=0)).samples, found.weights, strict=True):
        answer = json.loads(text.partition("a")[2]) if w else []
        assert len(set(answer)) == len(answer)


def test_answers_are_read_as_their_constraint_reads_them() -> None:
    assert fk.after("b", fk.json_schema({"type": "integer"})).read("7b12") == 12
    assert fk.after("b", fk.regex("[0-9]")).read("7b1") == 1
    assert fk.after("a", fk.after("b", fk.regex("[0-9]"))).read("7b3a4b1") == 1
    with pytest.raises(ValueError, match="has no text to tell where the answer begins"):
        fk.after(3, fk.regex("[0-9]")).read("7b1")


def test_many_rests_of_tokens_are_bounded(explore, monkeypatch) -> None:
    """The bound leaves nothing out, and is what counting each of them would give but for a few tokens."""
    vocabulary = make(*STRADDLING)
    constraint = fk.after("<>", fk.regex("(ab){2}"))
    exact = constraint.automaton(vocabulary)
    monkeypatch.setattr(sequels, "_FEW", 0)
    bounded = fk.after("<>", fk.regex("(ab){2}")).automaton(vocabulary)
    tighter = 0
    for state in range(2):
        for left in range(8):
            within = [
                set(np.flatnonzero(unpack(each.masks_within(np.array([state]), np.array([left])), vocabulary.size)[0]))
                for each in (exact, bounded)
            ]
            assert within[0] <= within[1]
            tighter += len(within[1]) < len(explore(exact, vocabulary).allowed(state))
    assert tighter


def test_a_marker_that_never_comes_is_weight_zero(tiny_lm) -> None:
    lm = tiny_lm("a", "b", "ba")
    with pytest.raises(AllParticlesDied):
        fk.steer(lm.prompt("a", max_tokens=1), fk.after("bb", fk.regex("a")), particles=8, seed=0)
    result = fk.steer(lm.prompt("a", max_tokens=6), fk.after("b", fk.regex("a")), particles=32, seed=0)
    assert all(text.partition("b")[1:] == ("b", "a") for text in result.posterior())


def test_it_is_copied_and_pickled_by_its_definition() -> None:
    vocabulary = make(*STRADDLING)
    constraint = fk.after("<>", fk.regex("a*"))
    constraint.automaton(vocabulary)
    for twin in (copy.deepcopy(constraint), pickle.loads(pickle.dumps(constraint))):
        assert twin.name == constraint.name == "after('<>', regex('a*'))"
        assert twin.automaton(vocabulary).accepts(np.array([0])).tolist() == [False]


def test_a_marker_that_would_take_long_is_refused_where_it_is_written() -> None:
    assert fk.after("a" * 128, fk.regex("b")).name.startswith("after(")
    for marker, size in [("a" * 129, "129"), ("é" * 65, "130"), ("ab" * 3000, "6,000")]:
        with pytest.raises(ArgumentError, match=rf"the marker has {size} bytes, and may have 128; give its end"):
            fk.after(marker, fk.regex("b"))


@pytest.mark.parametrize("marker", ["a" * 128, "ab" * 64, "a" * 127 + "b"])
def test_the_longest_marker_needs_as_many_tokens_as_spell_it(marker: str) -> None:
    vocabulary = make("a", "b", "ab", "aa", "bb")
    automaton: Any = fk.after(marker, fk.regex("b")).automaton(vocabulary)
    assert count_least(automaton) == 64 + 1


def test_what_is_told_of_the_tokens_of_whole_texts_has_no_place_behind_a_marker() -> None:
    with pytest.raises(ArgumentError, match=r"canonical\(\)\): .*after\(\.\.\.\) \* canonical\(\)"):
        fk.after("<>", fk.canonical())
