"""Regular expressions of every shape, and texts drawn under them."""

from __future__ import annotations

import re
from typing import Any

from guard import fuzz, guarded
from hypothesis import given, strategies as st

import feynkac as fk

PIECES = [
    "a", "b", ".", "\\d", "\\w", "\\W", "\\s", "\\S", "\\b", "\\B", "\\A", "\\Z", "^", "$", "[ab]", "[^a]",
    "[a-z0-9]", "[\\w-]", "[[:a:]]",
    "\\x41", "\\u00e9", "\\U0001f680", "\\N{DIGIT ONE}", "\\N{NO}", "\\1", "\\07", "\\Q", "é", "漢", "\0", "\n",
    "\ud800", " ", "-", "]", "}",
]  # fmt: skip
SUFFIXES = [
    "",
    "*",
    "+",
    "?",
    "*?",
    "++",
    "{2}",
    "{1,3}",
    "{,2}",
    "{2,}",
    "{3,1}",
    "{1000}",
    "{1,100000}",
    "{0}",
    "{",
    "**",
    "{99999999999}",
]
OPENINGS = [
    "(",
    "(?:",
    "(?P<a>",
    "(?i:",
    "(?s-i:",
    "(?=",
    "(?!",
    "(?<=",
    "(?<!",
    "(?>",
    "(?#",
    "(?P=a",
    "(?(1)",
    "(?i)",
    "(?m)",
    "(?x)",
    "(?L)",
]


def _join(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    suffixed = st.tuples(inner, st.sampled_from(SUFFIXES)).map("".join)
    grouped = st.tuples(st.sampled_from(OPENINGS), inner, st.sampled_from([")", ")", ")", ""])).map("".join)
    listed = st.lists(inner, min_size=1, max_size=4).map("".join)
    return st.one_of(suffixed, grouped, listed, st.lists(inner, max_size=3).map("|".join))


PATTERNS = st.recursive(st.sampled_from(PIECES) | st.text(max_size=2), _join, max_leaves=10)
CHARACTERS = st.text("ab.*+?()[]{}|^$\\dwsbBAZ0123,-:=!<>PiLmsux#é\0", max_size=25)
FLAGS = [0, re.IGNORECASE, re.ASCII, re.MULTILINE, re.DOTALL, re.VERBOSE, re.IGNORECASE | re.ASCII, re.LOCALE]


@fuzz(share=0.15, sample=50)
@given(st.data())
def test_patterns_mask_or_are_refused(tiny_lm, data) -> None:
    pattern: Any = data.draw(PATTERNS | CHARACTERS, label="pattern")
    flags = data.draw(st.sampled_from(FLAGS), label="flags")
    with guarded():
        if flags:
            try:
                pattern = re.compile(pattern, flags)
            except (re.error, OverflowError, ValueError, RecursionError):
                return
        result = fk.steer(tiny_lm("a", "b", "1").prompt("a", max_tokens=4), fk.regex(pattern), particles=2, seed=0)
        drawn = zip(result.texts, result.weights, strict=True)
        assert all(re.fullmatch(pattern, text) for text, weight in drawn if weight > 0.0)


@fuzz(share=0.03, sample=8)
@given(st.lists(st.text(max_size=6) | st.sampled_from(["a", "ab", "\0", "\ud800", "a" * 1000]), max_size=5))
def test_choices_and_phrases_mask_or_are_refused(tiny_lm, texts) -> None:
    for make in (
        lambda: fk.choices(texts),
        lambda: fk.phrases(ban=texts),
        lambda: fk.phrases(require=texts, ignore_case=True),
    ):
        with guarded():
            fk.steer(tiny_lm("a", "b").prompt("a", max_tokens=3), make(), particles=2, seed=0)


def test_patterns_nested_deeply_are_refused() -> None:
    for pattern in (
        "(" * 5_000 + "a" + ")" * 5_000,
        "(" * 400 + "a" + ")*" * 400,
        "[" * 100_000,
        "a|" * 100_000,
        "(a?){30}" * 30,
    ):
        with guarded():
            fk.regex(pattern)
