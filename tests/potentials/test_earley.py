"""The Earley engine against a recogniser of a few lines, over all short texts, by bytes and by tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from feynkac.base.errors import ConstraintError
from feynkac.base.masks import mask_within, unpack
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials import grammar
from feynkac.potentials.constraints.automata.listing import BYTES
from feynkac.potentials.constraints.engines.earley import table
from feynkac.potentials.constraints.engines.earley.table import EarleyAutomaton

Rules = dict[str, list[tuple[str, ...]]]
"""The options of each rule; lower case letters are rules, others stand for themselves."""


def write(rules: Rules) -> str:
    """The grammar as text; "s" is the start."""
    lines = ["start: s"]
    for name, options in rules.items():
        lines.append(f"{name}: " + " | ".join(" ".join(x if x in rules else f'"{x}"' for x in o) for o in options))
    return "\n".join(lines)


def derive(rules: Rules, n: int) -> set[str]:
    """All texts of up to `n` letters that derive from "s": sets of texts grow until they stay as they are."""
    found: dict[str, set[str]] = {name: set() for name in rules}
    while True:
        before = sum(map(len, found.values()))
        for name, options in rules.items():
            for option in options:
                made = {""}
                for part in option:
                    behind = found[part] if part in rules else {part}
                    made = {text + more for text in made for more in behind if len(text) + len(more) <= n}
                found[name] |= made
        if sum(map(len, found.values())) == before:
            return found["s"]


GRAMMARS: dict[str, Rules] = {
    "recursion on the left": {"s": [("s", "A"), ()]},
    "recursion on the right": {"s": [("A", "s"), ("B",)]},
    "recursion through two rules on the left": {"s": [("t", "A"), ("B",)], "t": [("s", "B"), ("A",)]},
    "recursion through two rules on the right": {"s": [("A", "t"), ("B",)], "t": [("B", "s"), ("A",)]},
    "recursion on the left behind a rule that may be empty": {"s": [("t", "s", "B"), ("A",)], "t": [(), ("A",)]},
    "recursion on the right before a rule that may be empty": {"s": [("B", "s", "t"), ("A",)], "t": [(), ("A",)]},
    "a cycle": {"s": [("t",), ("A",)], "t": [("s",), ("B", "t")]},
    "a cycle through empty rules": {"s": [("s", "s"), ("t",)], "t": [(), ("A", "t", "B")]},
    "palindromes": {"s": [("A", "s", "A"), ("B", "s", "B"), ()]},
    "brackets": {"s": [("A", "s", "B", "s"), ()]},
    "sums": {"s": [("s", "A", "s"), ("B",)]},
    "as many": {"s": [("A", "t"), ("B", "u"), ()], "t": [("B", "s"), ("A", "t", "t")],
                "u": [("A", "s"), ("B", "u", "u")]},
    "literals that overlap": {"s": [("t", "u")], "t": [("AB",), ("ABBA",)], "u": [("BB",), ("BAB",)]},
    "rules of no text beside others": {"s": [("t",), ("A", "s")], "t": [("t", "A"), ("B", "u")], "u": [(), ("u", "t")]},
    "empty parts on both sides": {"s": [("t", "A", "t")], "t": [(), ("t", "t"), ("B",)]},
    "nothing but the empty text": {"s": [("t", "t")], "t": [()]},
}  # fmt: skip


def accept(automaton: Any, n: int, letters: bytes = b"AB") -> set[str]:
    """All texts of up to `n` letters that an automaton over bytes accepts."""
    texts, states, found = [""], np.array([automaton.start]), set[str]()
    for _ in range(n + 1):
        found |= {text for text, accepted in zip(texts, automaton.accepts(states), strict=True) if accepted}
        texts = [text + chr(letter) for text in texts for letter in letters]
        states = automaton.advance(np.repeat(states, len(letters)), np.tile(np.array([*letters]), len(states)))
        texts, states = [text for text, q in zip(texts, states, strict=True) if q >= 0], states[states >= 0]
    return found


@pytest.mark.parametrize("rules", GRAMMARS.values(), ids=GRAMMARS)
def test_the_texts_of_a_grammar_are_those_that_derive(rules: Rules) -> None:
    assert accept(grammar(write(rules)).automaton(BYTES), 9) == derive(rules, 9)


TOKENS = Vocabulary((b"", b"A", b"B", b"AB", b"BBA", b"AAB", b"\xc3", b"A", b""), (0, 8))


@pytest.mark.parametrize("rules", GRAMMARS.values(), ids=GRAMMARS)
def test_masks_over_tokens_are_exact(rules: Rules) -> None:
    check_masks(grammar(write(rules)).automaton(TOKENS), TOKENS, rules)


parts = st.lists(st.sampled_from(["s", "t", "u", "A", "B", "AB"]), max_size=3).map(tuple)
any_rules = st.fixed_dictionaries({name: st.lists(parts, min_size=1, max_size=3) for name in "stu"})


@settings(max_examples=200, deadline=None, derandomize=True)
@given(any_rules)
def test_random_grammars_accept_what_derives(rules: Rules) -> None:
    derived = derive(rules, 6)
    try:
        automaton = grammar(write(rules)).automaton(BYTES)
    except ConstraintError:
        assert not derived
        return
    assert accept(automaton, 6) == derived


def leads_on(rules: Rules, text: str, tokens: list[bytes]) -> bool:
    """Whether some text derives that is `text`, and then some tokens: the spans of rules between the places of both.

    Places are 0 to n in the text, of which the last is between two tokens, and others within tokens.
    """
    hub, moves, places = len(text), [(i, letter, i + 1) for i, letter in enumerate(text)], len(text) + 1
    for token in tokens:
        path = [hub, *range(places, places + len(token) - 1), hub]
        places += len(token) - 1
        moves += [(path[i], letter, path[i + 1]) for i, letter in enumerate(token.decode("latin-1"))]
    spans = {name: set[tuple[int, int]]() for name in rules}
    size = -1
    while size < sum(map(len, spans.values())):
        size = sum(map(len, spans.values()))
        for name, options in rules.items():
            for option in options:
                made = {(i, i) for i in range(places)}
                for part in option:
                    for each in [part] if part in rules else part:
                        steps = spans[each] if each in rules else {(i, j) for i, x, j in moves if x == each}
                        made = {(i, k) for i, j in made for at, k in steps if at == j}
                spans[name] |= made
    return (0, hub) in spans["s"]


def check_masks(automaton: Any, vocabulary: Vocabulary, rules: Rules) -> None:
    """Behind all sequences of up to two tokens, a token is allowed iff some text leads on through it."""
    tokens = sorted({token for token in vocabulary.tokens if token})
    todo = [("", automaton.start)]
    for _ in range(3):
        beyond: dict[int, str] = {}
        for text, state in todo:
            row = unpack(automaton.masks(np.array([state])), vocabulary.size)[0]
            assert row[list(vocabulary.eos)].all() == automaton.accepts(np.array([state]))[0]
            assert automaton.accepts(np.array([state]))[0] == leads_on(rules, text, [])
            for v, token in enumerate(vocabulary.tokens):
                after = text + token.decode("latin-1")
                follows = bool(token) and leads_on(rules, after, tokens)
                there = int(automaton.advance(np.array([state]), np.array([v]))[0])
                assert ((there >= 0) == follows and row[v] == follows) or v in vocabulary.eos, after
                if follows:
                    beyond[there] = after
        todo = [(text, state) for state, text in beyond.items()]


PIECES = [b"A", b"B", b"AB", b"BA", b"ABB", b"BAAB", b"AAA", b"C"]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(any_rules, st.lists(st.sampled_from(PIECES), min_size=1, max_size=4))
def test_masks_of_random_grammars_are_exact_where_tokens_spell_some_texts_only(
    rules: Rules, pieces: list[bytes]
) -> None:
    vocabulary = Vocabulary((b"", *pieces, b""), (0,))
    try:
        automaton = grammar(write(rules)).automaton(vocabulary)
    except ConstraintError:
        assert not leads_on(rules, "", pieces)
        return
    check_masks(automaton, vocabulary, rules)


@pytest.mark.parametrize(
    "case", ["brackets", "as many", "recursion through two rules on the left", "literals that overlap"]
)
def test_no_token_is_begun_that_the_limit_has_no_room_for(case: str) -> None:
    """Over single bytes the fewest bytes are the fewest tokens: just what cannot be completed is left out."""
    rules, vocabulary = GRAMMARS[case], Vocabulary((b"", b"A", b"B"), (0,))
    automaton, derived = grammar(write(rules)).automaton(vocabulary), derive(rules, 9)
    todo = [("", automaton.start)]
    for text, state in todo:
        for left in range(1, 6):
            row = unpack(mask_within(automaton, np.array([state]), np.array([left])), 3)[0]
            for v, letter in ((1, "A"), (2, "B")):
                fits = any(whole.startswith(text + letter) and len(whole) <= len(text) + left for whole in derived)
                assert row[v] == fits, (text, letter, left)
        if len(text) < 4:
            after = automaton.advance(np.array([state, state]), np.array([1, 2]))
            todo += [(text + letter, int(q)) for letter, q in zip("AB", after, strict=True) if q >= 0]


def test_a_limit_counts_the_longest_token() -> None:
    """Five bytes are needed, tokens hold three: nothing is sure but that one token does not do."""
    vocabulary = Vocabulary((b"", b"A", b"AAA", "é".encode(), b"\xc3", b"\xa9"), (0,))
    automaton = grammar('start: "AAAAA" | "Aéé"').automaton(vocabulary)

    def allowed(state: int, left: int) -> set[int]:
        row = unpack(mask_within(automaton, np.array([state]), np.array([left])), vocabulary.size)[0]
        return set(np.flatnonzero(row).tolist())

    assert allowed(0, 1) == set() and allowed(0, 2) == {2} and allowed(0, 3) == {1, 2}
    half = int(automaton.advance(automaton.advance(np.array([0]), np.array([1])), np.array([4]))[0])
    assert allowed(half, 1) == set() and allowed(half, 2) == {5}  # one byte of this character, two of the next


def test_equal_texts_to_come_are_one_state() -> None:
    automaton = grammar('start: "[" (item ("," item)*)? "]"\nitem: /[0-9]+/ | start').automaton(BYTES)

    def after(text: str) -> int:
        state = np.array([0])
        for byte in text.encode():
            state = automaton.advance(state, np.array([byte]))
        return int(state[0])

    assert after("[1,") == after("[12,345,[],") != after("[[1,") == after("[7,[1,2,[],")


def test_a_list_without_brackets_has_finitely_many_states() -> None:
    for lark in (
        'start: start "," start | "1"',
        'start: "1" | "1" "," rest\nrest: start',
        'start: a\na: b "," "1" | "1"\nb: a',
    ):
        automaton, state = grammar(lark).automaton(BYTES), np.array([0])
        seen = set()
        for byte in b"1," * 30:
            state = automaton.advance(state, np.array([byte]))
            seen.add(int(state[0]))
        assert len(seen) == 2


def test_tables_are_bounded_and_what_they_forget_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_ROWS", "_KNOWN"):
        monkeypatch.setattr(table, name, 1)
    rules = GRAMMARS["brackets"]
    automaton = grammar(write(rules)).automaton(TOKENS)
    check_masks(automaton, TOKENS, rules)
    assert isinstance(automaton, EarleyAutomaton)
    assert len(automaton._rows) <= 1 and len(automaton._kernels) <= 1
    assert accept(grammar(write(rules)).automaton(BYTES), 7) == derive(rules, 7)


def test_states_older_than_the_memory_are_refused_and_the_start_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_VISITED", 8)
    automaton = grammar('start: "(" start ")" |').automaton(BYTES)
    first = state = automaton.advance(np.array([0]), np.array([ord("(")]))
    for _ in range(20):
        state = automaton.advance(state, np.array([ord("(")]))
    with pytest.raises(ConstraintError, match="older than 8 others"):
        automaton.masks(first)
    assert automaton.accepts(np.array([0]))[0] and automaton.masks(state).any()


def test_dead_and_foreign_tokens_lead_nowhere() -> None:
    automaton = grammar('start: "A"+').automaton(TOKENS)
    assert automaton.advance(np.array([-1, 0, 0, 0, 0]), np.array([1, -1, 99, 0, 2])).tolist() == [-1] * 5
    assert not automaton.masks(np.array([-1])).any() and not automaton.accepts(np.array([-1]))[0]


def test_deep_nesting_is_no_recursion() -> None:
    automaton, state = grammar('start: "(" start ")" |').automaton(BYTES), np.array([0])
    for byte in b"(" * 3000 + b")" * 3000:
        state = automaton.advance(state, np.array([byte]))
    assert automaton.accepts(state)[0]


def test_a_token_that_spells_nothing_accepted_leads_nowhere_on_its_own_branch_only() -> None:
    """With these tokens nothing spells what follows "ab"; the sibling goes on."""
    vocabulary = Vocabulary((b"a", b"b", b"c", b""), (3,))
    automaton = grammar('start: "a" "b" "z" | "a" "c" "c"').automaton(vocabulary)
    after = automaton.advance(np.array([0]), np.array([0]))
    assert unpack(automaton.masks(after), 4)[0].tolist() == [False, False, True, False]
    with pytest.raises(ConstraintError, match="no sequence of this vocabulary's tokens"):
        grammar('start: "a" "b" "z"').automaton(vocabulary)
