"""Regular expressions mean what Python's `re` means by them, and their masks are exact for every vocabulary."""

from __future__ import annotations

import itertools
import re
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from feynkac.base.errors import ArgumentError, ConstraintError
from feynkac.base.masks import unpack
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials import choices, phrases, regex
from feynkac.potentials.constraints.automata import dfa, trie
from feynkac.potentials.constraints.automata.characters import match_characters
from feynkac.potentials.constraints.automata.expressions import build_dfa, check

# Tokens that overlap, halves of characters, duplicates, control tokens in the middle, several ends.
PIECES = [b"a", b"b", b"ab", b"ba", b"aab", "é".encode(), b"\xc3", b"\xa9", b"\xa9a", b"b\xc3", b"\n", b"a", b""]
PIECES += ["É".encode(), b"\xe2\x82", b"\xac", b"A"]

ATOMS = r"a b é . \w \W \s \S \d [ab] [^a] [^é] [a-zé] (?i:é) (?i:a) € \n (?s:.) (?a:\w) [^\s\S] (?i:[^a])"
ANCHORS = r"^ $ \A \Z \b \B (?m:^) (?m:$) (?a:\b)"
atoms = st.sampled_from(["", *ANCHORS.split(), "(?i:[^É-Ö])", r"\u0130", "(?i:i)", *ATOMS.split()])
patterns = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{0,2}", "{1,}", "{0}"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=6,
)
vocabularies = st.tuples(
    st.lists(st.sampled_from(PIECES), min_size=2, max_size=6), st.sampled_from([(0,), (1,), (0, 1)])
)


def decoded(text: bytes) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def matches(pattern: str, text: bytes) -> bool:
    whole = decoded(text)
    return whole is not None and re.fullmatch(pattern, whole) is not None


@settings(max_examples=150, deadline=None, derandomize=True)
@given(patterns, vocabularies)
def test_masks_are_exact(explore: Any, pattern: str, vocabulary: Any) -> None:
    made = Vocabulary((b"", b"", *vocabulary[0]), vocabulary[1])
    try:
        automaton = regex(pattern).automaton(made)
    except ConstraintError as error:
        assert "matches no text" in str(error) or "no sequence of this vocabulary" in str(error)
        texts = [v for v, token in enumerate(made.tokens) if token]
        for a in ([], *([v] for v in texts), *([v, w] for v in texts for w in texts)):
            assert not matches(pattern, made.bytes(a))
        return
    explore(automaton, made).check(lambda text: matches(pattern, text), depth=3)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(patterns, st.lists(st.text("ab éÉ€\nAKkıİi\u212a", max_size=6), min_size=20, max_size=20))
def test_characters_mean_what_python_says(pattern: str, texts: list[str]) -> None:
    bytewise = Vocabulary((*(bytes([b]) for b in range(256)), b""), (256,))
    try:
        automaton = regex(pattern).automaton(bytewise)
    except ConstraintError:
        assert not any(re.fullmatch(pattern, text) for text in texts)
        return
    for text in texts:
        states = np.array([automaton.start])
        for byte in text.encode():
            states = automaton.advance(states, np.array([byte]))
        assert automaton.accepts(states)[0] == (re.fullmatch(pattern, text) is not None), text


@settings(max_examples=80, deadline=None, derandomize=True)
@given(patterns, vocabularies)
def test_masks_made_from_those_of_the_start_are_exact(explore: Any, pattern: str, vocabulary: Any) -> None:
    """As those of large automata are made, however little two states have in common."""
    made = Vocabulary((b"", b"", *vocabulary[0]), vocabulary[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dfa, "_SMALL", 0)
        patch.setattr(
            dfa.DfaAutomaton, "_forgets", property(lambda self: True, lambda self, value: None), raising=False
        )
        try:
            automaton = regex(pattern).automaton(made)
        except ConstraintError:
            return
        explore(automaton, made).check(lambda text: matches(pattern, text), depth=3)


def test_forced_texts_may_be_spelled_in_every_way(explore: Any) -> None:
    tokens = (b"h", b"he", b"hel", b"hell", b"hello", b"e", b"l", b"o", b" ", b"w", b"world", b"x", b"")
    vocabulary = Vocabulary(tokens, (12,))
    with pytest.raises(ConstraintError, match="no sequence"):
        regex("hello wort").automaton(vocabulary)
    start = explore(regex("hello world").automaton(vocabulary), vocabulary).allowed(0)
    assert start == {0, 1, 2, 3, 4}


def test_a_token_is_refused_if_no_token_can_follow_it(explore: Any) -> None:
    """By bytes "h" begins "he"; with these tokens nothing completes it."""
    vocabulary = Vocabulary((b"h", b"he", b"ea", b""), (3,))
    assert explore(regex("he|heea").automaton(vocabulary), vocabulary).allowed(0) == {1}


def test_a_dead_state_may_be_passed_through_inside_a_token(explore: Any) -> None:
    """No tokens lead on from "h", yet "he" goes through it."""
    vocabulary = Vocabulary((b"h", b"he", b""), (2,))
    automaton = explore(regex("hehe").automaton(vocabulary), vocabulary)
    assert automaton.allowed(0) == {1}
    assert automaton.allowed(automaton.after(0, 1)) == {1}


ANCHORED = [
    "^a+$", r"\Aa+\Z", "(?:^a|^aa)a*$", "(?:a+$|b^)", "a^b|a+", "(?:^)*a+(?:$)*",
    r"a+|a(?:^\n|a)", r"$\D$", r"\D$", r"a$\n",
    r"a$\n$", r"a\Z\n", r"(?m)^a$\n^b$", r"(?m)(?:^a*\n)*$", r"(?m)a$b|^\n$\n", r"\ba\b[^a]\ba\b",
    r"\Ba*", r"(\B|a\b\n)*",
    r"(?a)\bé\b|\Bé\B", r"\bé\b", r"(?:a\b|b|\n)*", r"(?:^|\n)(?:a+(?:$|\b))*", r"$", r"$^\n", r"(?m)$\n^", r"^\b|\B$",
    r"(?s).*$\Z", r"(?s).*$.*", r"(?ms).*^a$.*", r"(?i)\bA\b",
]  # fmt: skip


@pytest.mark.parametrize("pattern", ANCHORED)
def test_anchors_mean_what_python_says(explore: Any, pattern: str) -> None:
    vocabulary = Vocabulary((b"a", b"\n", b"b", "é".encode(), b""), (4,))
    try:
        automaton = regex(pattern).automaton(vocabulary)
    except ConstraintError:
        texts = ("".join(text) for n in range(5) for text in itertools.product("a\nbé", repeat=n))
        assert not any(re.fullmatch(pattern, text) for text in texts)
        return
    explore(automaton, vocabulary).check(lambda text: matches(pattern, text), depth=4)


@pytest.mark.parametrize("pattern", ["\ud83d", "a\udcff", r"\ud800"])
def test_half_of_a_character_is_refused(pattern: str) -> None:
    with pytest.raises(ConstraintError, match="half of a character"):
        regex(pattern)


def test_what_no_text_meets_is_refused_where_it_is_written() -> None:
    for pattern in (r"a\bb", r"(?m)a^b", r"\Za", r"[^\s\S]", r"a$b"):
        with pytest.raises(ConstraintError, match="matches no text at all"):
            regex(pattern)


@pytest.mark.parametrize(
    "pattern",
    [r"(?:.{0,100}x){0,30}", "(?:a{0,100}){0,100}", ".*(?:foo|bar).*(?:baz|qux).{50}", "((a{0,200}){0,200}){0,200}",
     "(a|b)*a(a|b){30}", "a{99999}b{99999}", "(?:(?:^|a|$){9}){9999}"],
)  # fmt: skip
def test_an_automaton_that_would_take_long_is_refused_soon(pattern: str) -> None:
    began = time.process_time()
    with pytest.raises(ConstraintError, match="too large an automaton"):
        regex(pattern)
    assert time.process_time() - began < 4.0  # the stated limit is two seconds; the machine may be busy


def test_repeats_of_nothing_are_nothing(explore: Any) -> None:
    vocabulary = Vocabulary((b"a", b"b", b""), (2,))
    automaton = regex("(?:){999999999}a(?:(?:)){0,999999999}").automaton(vocabulary)
    explore(automaton, vocabulary).check(lambda text: text == b"a", depth=2)


@pytest.mark.parametrize("pattern", ["(" * 3000 + ")" * 3000, "(?:a|" * 2000 + "b" + ")" * 2000])
def test_deep_nesting_is_refused(pattern: str) -> None:
    with pytest.raises(ConstraintError, match="nested too deeply") as error:
        regex(pattern)
    assert len(str(error.value)) < 300


def test_numbers_of_repeats_beyond_the_parser_are_refused() -> None:
    with pytest.raises(ConstraintError, match="repetition number is too large"):
        regex("a{9999999999999}")


def test_compiled_patterns_keep_their_flags(explore: Any) -> None:
    vocabulary = Vocabulary((b"a", b"A", b"\n", b""), (3,))
    pattern = re.compile("a.", re.IGNORECASE | re.DOTALL)
    automaton = explore(regex(pattern).automaton(vocabulary), vocabulary)
    automaton.check(lambda text: bool(pattern.fullmatch(text.decode())), depth=3)


@pytest.mark.parametrize(
    ("pattern", "culprit"),
    [
        ("a(?=b)", "look-around"),
        ("(?<!a)b", "negative look-around"),
        (r"(a)\1", "back-reference"),
        ("(a)(?(1)b|c)", "conditional group"),
        ("(?>a)b", "atomic group"),
        ("a*+", "possessive"),
        ("(a", "unterminated subpattern at position 0"),
        ("[z-a]", "bad character range z-a at position 1"),
        ("a**", "multiple repeat"),
    ],
)
def test_what_has_no_automaton_is_refused_by_name(pattern: str, culprit: str) -> None:
    with pytest.raises(ConstraintError, match=culprit) as error:
        regex(pattern)
    assert repr(pattern) in str(error.value)


@pytest.mark.parametrize("pattern", ["a^b", "a$b", r"[^\s\S]", r"a[^\w\W]", r"[\ud800-\udfff]"])
def test_patterns_that_match_nothing_are_refused(pattern: str) -> None:
    with pytest.raises(ConstraintError, match="matches no text at all"):
        regex(pattern).automaton(Vocabulary((b"a", b"b", b""), (2,)))


def test_bytes_are_no_pattern() -> None:
    with pytest.raises(ArgumentError, match="as str"):
        regex(b"a")  # type: ignore[arg-type]


def test_the_decoder_reads_exactly_the_characters() -> None:
    """Every sequence of bytes that the decoder completes is the UTF-8 of one character, and all 1,112,064 are."""
    step = build_dfa(*check("(?s:.)")).alphabet.step
    sequences = [(0, b"")]
    spelled = []
    for u, text in sequences:
        for byte in np.flatnonzero(step[u] != -1).tolist():
            if step[u, byte] < 0:
                spelled.append(text + bytes([byte]))
            else:
                sequences.append((int(step[u, byte]), text + bytes([byte])))
    assert spelled and sorted(spelled) == [chr(c).encode() for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def test_kernels_are_plain_loops(explore: Any) -> None:
    """The same functions give the same undecorated."""
    vocabulary = Vocabulary((b"a", b"ab", b"\xc3", b"\xa9", b"\xa9b", "éa".encode(), b"", b"a"), (6,))
    automaton = explore(regex("(a|é)*b?").automaton(vocabulary), vocabulary).automaton
    nodes = trie._list_nodes.py_func(automaton._tokens.flat, automaton._tokens.offset, np.array([0, 7, 1, 3, 4, 2, 5]))
    for mine, theirs in zip(nodes, automaton._nodes, strict=False):
        np.testing.assert_array_equal(mine, theirs)
    states = np.arange(automaton._alive.size)
    for state in states[automaton._alive.reshape(-1) == trie.LIVE]:
        row = np.zeros(1, dtype=np.uint32)
        trie.fill.py_func(row, *divmod(int(state), automaton._partial), *automaton._tables, *automaton._nodes)
        assert row[0] | automaton._eos[0] == automaton.masks(np.array([state]))[0, 0] | automaton._eos[0]
    walk: Any = trie.advance
    for token in range(8):
        arguments = [states, np.full(len(states), token), *automaton._tables, automaton._tokens.flat]
        expected = walk(*arguments, automaton._tokens.offset)
        np.testing.assert_array_equal(walk.py_func(*arguments, automaton._tokens.offset), expected)


def test_sets_of_characters_come_from_python() -> None:
    assert match_characters("[k]", re.IGNORECASE) == ((75, 76), (107, 108), (0x212A, 0x212B))


def test_states_far_from_a_bound_share_their_masks(explore: Any) -> None:
    """Shared rows are an optimisation: near the bound they differ again."""
    vocabulary = Vocabulary((b"a", b"aa", b"aaaa", b"b", b""), (4,))
    counted = explore(regex("a{0,50}").automaton(vocabulary), vocabulary)
    state = 0
    for left in range(50, -1, -1):
        expected = {0: 1, 1: 2, 2: 4}
        assert counted.allowed(state) == {token for token, n in expected.items() if n <= left} | {4}
        state = counted.after(state, 0)
    assert state == -1
    assert len(counted.automaton._rows) <= 6


def test_masks_and_advance_agree_on_a_real_vocabulary(smollm2: Any) -> None:
    from tokenizers import Tokenizer

    vocabulary = Vocabulary.from_tokenizer(Tokenizer.from_file(str(smollm2 / "tokenizer.json")), eos=[0, 2])
    rng = np.random.default_rng(0)
    every = np.arange(vocabulary.size)
    for pattern in (r"[^eE]*", r"(\w{1,20} ){3,8}\w+\.", r"(?i)(the|a) .{0,40}[^\x00-\x7f]{1,3}"):
        automaton, states = regex(pattern).automaton(vocabulary), np.zeros(1, dtype=np.int64)
        path: list[int] = []
        for _ in range(25):
            allowed = unpack(automaton.masks(states), vocabulary.size)[0]
            assert allowed[[0, 2]].tolist() == [automaton.accepts(states)[0]] * 2
            after = automaton.advance(np.repeat(states, vocabulary.size), every)
            allowed[[0, 2]] = False
            np.testing.assert_array_equal(allowed, after >= 0)
            if not allowed.any():
                break
            path.append(int(rng.choice(np.flatnonzero(allowed))))
            states = after[path[-1:]]
            whole = decoded(vocabulary.bytes(path))
            matched = whole is not None and re.fullmatch(pattern, whole) is not None
            assert matched == automaton.accepts(states)[0]


@pytest.mark.parametrize("constraint", [regex("[ab]*"), phrases(ban=["bb"]), choices(["ab", "b"])], ids=str)
def test_numbers_that_are_no_states_are_refused_before_compiled_code_reads_there(constraint: Any) -> None:
    automaton, token = constraint.automaton(Vocabulary((b"a", b"b", b""), (2,))), np.array([0])
    for state in (np.array([1 << 20]), np.array([1 << 40])):
        for ask in (automaton.masks, automaton.accepts, lambda states: automaton.advance(states, token)):
            with pytest.raises(ConstraintError, match=f"{state[0]} is none of its .* states"):
                ask(state)
    assert automaton.advance(np.array([-1]), token).tolist() == [-1]
