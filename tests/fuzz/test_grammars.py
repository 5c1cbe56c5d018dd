"""Grammars in Lark's notation, made of pieces and by changes of right ones, for both engines."""

from __future__ import annotations

import re
from typing import Any

from guard import fuzz, guarded
from hypothesis import given, strategies as st

import feynkac as fk

RIGHT = [
    'start: "a" | "b" start',
    'start: word (" " word)*\nword: /[a-c]+/',
    'start: pair{"a", "b"}\npair{x, y}: x y | y x',
    '?start: sum\n?sum: prod | sum "+" prod -> add\n?prod: NUMBER | "(" sum ")"\n%import common.NUMBER\n%ignore " "',
    'start: A ~ 2..5 [B]\nA: "a"i\nB.2: /b/ & ~"bb"',
    'start: ("a" "b"?)+ | "c"{2,3}\n// a comment\n%ignore /\\s+/',
    'start: a\na: b\nb: a | "x"',
    'start: %json {"type": "string"}',
    'start: @x\nx: "a"',
    "start: head tail\nhead[capture]: /a+/\ntail: /(?i:b)/",
    'start: "a".."z" "0".."9"\n%import common (LETTER, DIGIT)',
]
PIECE = re.compile(r'"[^"]*"|/[^/]*/|%\w+|\w+|\s|.')
TOKENS = [
    *sorted({piece for lark in RIGHT for piece in PIECE.findall(lark)}),
    "%extend", "%declare X", "%override", "%lark", "%regex {}", "%llguidance {}", "::=", "<x>", "<|im_end|>",
    "\ud800", "\0", "é", '"', "/",
    "{", "}", "[[[", "~99999", "~1..9999999", "..", "_x", "__", "start", "START", "->", "!", "A.-1", '""', "//",
    "/(?=a)/", "/(/", '"\\x"', "stop=",
]  # fmt: skip


@st.composite
def grammars(draw: Any) -> str:
    """A right grammar with some pieces put in, left out, or in the place of others; or pieces alone."""
    pieces = PIECE.findall(draw(st.sampled_from([*RIGHT, ""])))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(pieces)))
        piece = draw(st.sampled_from(TOKENS) | st.text(max_size=3))
        width = draw(st.sampled_from([0, 0, 1, 1, 3]))
        pieces[at : at + width] = [piece] if draw(st.booleans()) else []
    return "".join(pieces)


@fuzz(share=0.12, sample=30)
@given(grammars(), st.sampled_from([None, None, "earley", "llguidance"]))
def test_grammars_mask_or_are_refused(tiny_lm, lark, engine) -> None:
    with guarded():
        constraint = fk.grammar(lark, engine=engine)
        fk.steer(tiny_lm("a", "b", "x", "1").prompt("a", max_tokens=4), constraint, particles=2, seed=0)


def test_grammars_nested_deeply_are_refused() -> None:
    deep = "start: " + "(" * 5_000 + '"a"' + ")" * 5_000
    rules = "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(1_200)) + 'r1200: "a"'
    for lark in (deep, rules, "start: " + '"a" | ' * 20_000 + '"b"', 'start: "a"{1000000}', 'start: ("a"{1000}){1000}'):
        for engine in (None, "llguidance"):
            with guarded():
                fk.grammar(lark, engine=engine)  # pyright: ignore
