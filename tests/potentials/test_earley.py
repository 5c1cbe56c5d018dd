"""The Earley engine against a recogniser of a few lines, over all short texts, by bytes and by tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from feynkac.base.errors import ConstraintError
from feynkac.base.masks import mask_within, unpack
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials import grammar, regex
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
    "as many": {"s": [("A", "t"), ("B", "u"), ()], "t": [("B", "s"), ("A", "t", "t")], "u": [("A", "s"), ("B", "u", "u")]},
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
    """Whether some text derives that is `text`, and then some tokens: the spans of all rules between the places of both.

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
                assert (there >= 0) == follows and row[v] == follows or v in vocabulary.eos, after
                if follows:
                    beyond[there] = after
        todo = [(text, state) for state, text in beyond.items()]


PIECES = [b"A", b"B", b"AB", b"BA", b"ABB", b"BAAB", b"AAA", b"C"]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(any_rules, st.lists(st.sampled_from(PIECES), min_size=1, max_size=4))
def test_masks_of_random_grammars_are_exact_where_tokens_spell_some_texts_only(rules: Rules, pieces: list[bytes]) -> None:
    vocabulary = Vocabulary((b"", *pieces, b""), (0,))
    try:
        automaton = grammar(write(rules)).automaton(vocabulary)
    except ConstraintError:
        assert not leads_on(rules, "", pieces)
        return
    check_masks(automaton, vocabulary, rules)
