"""Grammars as they are written: what Lark's notation means, what is refused and where, and which engine takes what."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import numpy as np
import pytest

from feynkac.base.errors import ArgumentError, ConstraintError
from feynkac.potentials import grammar, regex
from feynkac.potentials.constraints import grammars
from feynkac.potentials.constraints.automata.listing import BYTES
from feynkac.potentials.constraints.engines.earley.table import EarleyAutomaton
from feynkac.potentials.constraints.engines.llguidance.table import GuideAutomaton


def accepts(automaton: Any, text: str) -> bool:
    state = np.array([automaton.start])
    for byte in text.encode():
        state = automaton.advance(state, np.array([byte]))
    return bool(automaton.accepts(state)[0])


def list_accepted(automaton: Any, letters: str, n: int) -> set[str]:
    every = ("".join(text) for k in range(n + 1) for text in itertools.product(letters, repeat=k))
    return {text for text in every if accepts(automaton, text)}


@pytest.mark.parametrize(
    ("lark", "accepted", "rejected"),
    [
        ('start: "a"? "b"* "c"+', ["c", "abbcc"], ["", "ab"]),
        ('start: ["a"] ("b" | "c")', ["b", "ac"], ["a"]),
        ('start: "a"~2 "b"~1..2 "c"{2} "d"{1,} "e"{,1}', ["aabccd", "aabbccddde"], ["aabcd", "aabccdee"]),
        ('start: "a".."c" /x.?/ "é"', ["bxyé", "axé"], ["dxé", "ax"]),
        ('start: "ab"i', ["aB", "AB"], ["b"]),
        ("start: /a(?:b|c){2}/i /./s", ["ABc\n"], ["abc"]),
        (r'start: "\n\t\\\"\u00e9\x41\U0001F600\ud83d\ude00"', ['\n\t\\"éA😀😀'], ["\n"]),
        (r"start: /a\/b/", ["a/b"], ["a\\/b"]),
        ('start: | "a"', ["", "a"], []),
        ("start: x\n\n  | y  // either\nx: \"a\" # one\ny: (\"b\"\n | \"c\")", ["a", "b", "c"], ["ab"]),
        ('?start: !x -> alias | _y -> other\nx.2: "a"\n_y: B\nB.-1: "b"', None, None),
        ('start: _l{x, ","}\nx: "1" | "(" _l{x, ";"} ")"\n_l{item, sep}: item (sep item)*', ["1,(1;1)"], ["1;1"]),
        ("start: W+\nW: /[a-c]+/ & ~(\"a\" | \"ab\")", ["b", "abc"], ["a", "ab"]),
        ('start: NAME " " NAME\nNAME: /[a-z]+/ & ~KEY & ~"x"\nKEY: "if" | "in"', ["iff a"], ["if a", "a x"]),
        ("%import common.INT\n%import common (WS, WORD)\nstart: INT WORD\n%ignore WS", ["1 a", " 12\n b "], ["12"]),
        ("start: A \"b\"\nA: \"a\" \"a\"\n%ignore \" \"\n%ignore \"_\"", ["a" "ab", " aa_b "], ["a ab"]),
        ('start: "not" NAME\nNAME: /[a-z]+/\n%ignore " "', ["notx", "not x"], ["not"]),
        ("start: A\nA: B B\nB: \"b\" C\nC: \"c\"?", ["bb", "bcbc"], ["b"]),
        ('start: /\\w+/ "😀"', ["é😀", "ñandú1😀"], ["é", "-😀"]),
    ],
)  # fmt: skip
def test_what_is_written_means_what_lark_says(lark: str, accepted: Any, rejected: Any) -> None:
    if accepted is None:
        with pytest.raises(ConstraintError, match="line 4, column 3: '-' means nothing"):
            grammar(lark)
        lark, accepted, rejected = lark.replace("-1", "1"), ["a", "b"], ["ab"]
    automaton = grammar(lark, engine="earley").automaton(BYTES)
    assert [text for text in accepted if not accepts(automaton, text)] == []
    assert [text for text in rejected if accepts(automaton, text)] == []


def test_terminals_share_out_the_text_in_every_way() -> None:
    lark = 'start: STEM SUFFIX\nSTEM: "list" | "listen"\nSUFFIX: "ed"'
    assert list_accepted(grammar('start: A "ab"\nA: "a"+ "b"?').automaton(BYTES), "ab", 5) == {
        "aab",
        "abab",
        "aaab",
        "aaaab",
        "aabab",
    }
    assert accepts(grammar(lark).automaton(BYTES), "listed") and accepts(grammar(lark).automaton(BYTES), "listened")


@pytest.mark.parametrize(
    ("lark", "line", "culprit"),
    [
        ('start: "a" b', 1, "b: there is no rule of this name"),
        ('start: x\nx: "a" B', 2, "B: there is no terminal of this name"),
        ('start: "a\n', 1, "this text has no end"),
        ('start: "a"\n\nx: (y | ', 3, "the grammar ends"),
        ('start: "a" ) "b"', 1, r"'\)' stands where the definition should end"),
        ('begin: "a"', 1, "no rule named start"),
        ('start: "a"\nstart: "b"', 2, "start is defined twice"),
        ("start: x\nx: y\ny: x", 1, "no text derives from start"),
        ('start: x\nx: "a" x', 1, "no text derives from start"),
        ("start: A\nA: /[a-z]/ & /[0-9]/", 1, "no text derives from start"),
        ("start: A\nA: b\nb: \"b\"", 2, "A is made of terminals only, and b is a rule"),
        ("start: A\nA: \"a\" B\nB: A?", 3, "A needs itself"),
        ("start: x\nx: /a(/", 2, "unterminated subpattern"),
        ("start: x\nx: /a(?=b)/", 2, "look-around"),
        ("start: x\nx: /^a$/", 2, "\\^ has no meaning within a larger text"),
        (r"start: x" "\n" r'x: /(a)\1/', 2, "back-reference"),
        ("start: x\nx: /((a|b){1,400}){1,400}/", 2, "x needs too large an automaton"),
        ('start: "a"~5..2', 1, "no number is both"),
        ('start: "a"~99999999', 1, "too many"),
        ('start: ~3 "a"', 1, "'3' stands where a text, a name or a bracket is expected"),
        ('start: "a" ~ | "b"', 1, "'|' stands where a text, a name or a bracket is expected"),
        ("start: " + "(" * 200 + '"a"' + ")" * 200, 1, "nested more than 100 deep"),
        (r'start: "\q"', 1, "is no escape"),
        (r'start: "\ud800"', 1, "half of a character"),
        ('start: "b".."a"', 1, "a range goes from one character to a later one"),
        ('start: t{"a"}\nt{x, y}: x y', 1, "t takes 2 arguments, and not 1"),
        ('start: t{"a"}\nt{x}: x t{x}', 1, "no text derives"),
        ('start: t{"a"}\nt{x}: x | t{(x "a")}', 2, "t needs too large an automaton; .* templates that call themselves"),
        ("%import python.NAME\nstart: NAME", 1, "only %import common.NAME is supported"),
        ("%import common.NAME\nstart: NAME", 1, "common has no NAME; it has CNAME"),
        ("%declare X\nstart: X", 1, "%declare is not supported"),
        ('start: "a" & "b"', 1, "& stands in terminals only"),
        ('start: Foo\nFoo: "a"', 2, "rules in lower case, and terminals in upper case"),
        ("start: A\nA: \"a\" <|im_end|>", 2, "special token"),
        ('start: $', 1, "'\\$' means nothing here"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_where_it_is_written(lark: str, line: int, culprit: str) -> None:
    with pytest.raises(ConstraintError, match=culprit) as error:
        grammar(lark)
    assert str(error.value).startswith("grammar(") and f"line {line}" in str(error.value)


def test_extensions_of_llguidance_are_taken_by_llguidance() -> None:
    json = 'start: "x" j\nj: %json {"type": "integer"}'
    for lark in (json, r"start: /\p{L}+/", 'start[capture]: "a"', 'start: "a" | @b'):
        with pytest.raises(ConstraintError, match="ask for engine='llguidance'"):
            grammar(lark, engine="earley")
    automaton = grammar(json).automaton(BYTES)
    assert isinstance(automaton, GuideAutomaton) and accepts(automaton, "x12")
    assert isinstance(grammar("start: /[a-z]+/").automaton(BYTES), EarleyAutomaton)
    assert isinstance(grammar("start: /[a-z]+/", engine="llguidance").automaton(BYTES), GuideAutomaton)
    with pytest.raises(ArgumentError, match='the engines are "earley" and "llguidance"'):
        grammar("start: /a/", engine="xgrammar")  # type: ignore[arg-type]


SAME = {
    "brackets": ('start: "(" start ")" | "x"', "(x)", 6),
    "sums": ('start: e\ne: e "+" e | "1" | "(" e ")"', "1+()", 5),
    "white space": ('start: A "b"\nA: "a"+\n%ignore " "', "ab ", 5),
    "repeats": ('start: ("a" "b"?){2,3} | "b"~3', "ab", 6),
    "templates": ("start: A b?\nA: /[ab]c*/\nb: \"d\" b | \"d\"", "abcd", 5),
    "intersections": ("start: A\nA: /[ab]+/ & ~/.*aa.*/", "ab", 6),
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_both_engines_agree_where_terminals_do_not_overlap(case: str) -> None:
    lark, letters, n = SAME[case]
    one, two = (list_accepted(grammar(lark, engine=e).automaton(BYTES), letters, n) for e in ("earley", "llguidance"))
    assert {text for text in one if text == text.strip()} == two and two  # llguidance ignores nothing at the ends


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("ESCAPED_STRING", ['"a\\"b"', '""'], ['"a"b"', '"a\n"', '"\\"']),
        ("SIGNED_NUMBER", ["-1.5e+3", "+7", ".5", "1.", "2e3"], ["1.5.", "e3", "-"]),
        ("C_COMMENT", ["/* a * b\n**/"], ["/* */ */", "/*/"]),
        ("CNAME", ["_a1"], ["1a", ""]),
        ("NEWLINE", ["\r\n\n"], ["\r"]),
        ("SQL_COMMENT", ["-- a"], ["--\n"]),
    ],
)
def test_common_terminals_are_those_of_lark(name: str, yes: list[str], no: list[str]) -> None:
    automaton = grammar(f"%import common.{name}\nstart: {name}", engine="earley").automaton(BYTES)
    assert all(accepts(automaton, text) for text in yes) and not any(accepts(automaton, text) for text in no)


@pytest.mark.parametrize("pattern", [r"(a|b)*a(a|b){9}", r"\w{2,3}é?", r"(?i:straße)", r"[^a-z]+|\d\d"])
def test_a_regular_expression_is_what_regex_says(pattern: str) -> None:
    one, two = regex(pattern).automaton(BYTES), grammar(f"start: /{pattern}/").automaton(BYTES)
    for text in ("", "a", "ab", "a" + "ab" * 7, "éé", "STRASSE", "straſſe", "straße", "12", "☃☃", "aé"):
        assert accepts(one, text) == accepts(two, text)


def test_a_copy_of_a_grammar_accepts_the_same() -> None:
    constraint = grammar('start: "a" start "b" |')
    constraint.automaton(BYTES)
    for twin in (copy.deepcopy(constraint), pickle.loads(pickle.dumps(constraint))):
        assert list_accepted(twin.automaton(BYTES), "ab", 4) == {"", "ab", "aabb"}


@pytest.mark.parametrize(
    ("lark", "line"), [('root ::= "a"', 1), ('start: x\nx ::= "b"', 2), ('<a-b> ::= "a"', 1), ('  a-b ::= "a"', 1)]
)
def test_grammars_in_another_notation_are_told_by_its_name(lark: str, line: int) -> None:
    with pytest.raises(ConstraintError, match=f"line {line}: .* ::= is how BNF and GBNF write a rule"):
        grammar(lark)
    assert repr(grammar('start: "x ::= y"'))


@pytest.mark.parametrize(
    ("lark", "texts"),
    [
        ('start: "(" start ")" | "x"', None),
        ('start: a "x" | "y"\na: "(" start', None),
        ('start: a a\na: "x" | "y"', ["xx", "xy", "yx", "yy"]),
    ],
)
def test_texts_of_rules_that_need_themselves_are_not_looked_for(lark: str, texts: Any, monkeypatch: Any) -> None:
    made = grammar(lark)
    if texts is None:
        monkeypatch.setattr(grammars, "list_accepted", None)
    assert made.list_texts(256) == texts
