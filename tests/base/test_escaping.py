"""Texts that are shown: nothing of them reaches a terminal that it would obey."""

from __future__ import annotations

import pytest

import feynkac as fk
from feynkac.base.errors import FeynkacError
from feynkac.base.escaping import escape
from feynkac.steering.checking.report import Report

OBEYED = ["\x1b[31m", "\x1b]8;;http://x\x07", "\r", "\x9b2J", "\x00", "\b", "\u202e", "\u2066", "\ud83d", "\u2028"]


@pytest.mark.parametrize("char", OBEYED, ids=ascii)
def test_what_a_terminal_would_obey_is_written_as_python_writes_it(char) -> None:
    assert escape(f"a{char}b") == f"a{char.encode('unicode_escape').decode()}b"
    assert escape(char, keep=char) == char


@pytest.mark.parametrize("char", OBEYED, ids=ascii)
def test_an_error_that_quotes_a_text_shows_nothing_that_a_terminal_would_obey(char) -> None:
    shown = str(FeynkacError(f"the text {char} is wrong\n\tsee above"))
    assert char not in shown and shown.endswith("is wrong\n\tsee above")


@pytest.mark.parametrize("char", OBEYED, ids=ascii)
def test_an_error_of_a_users_function_is_told_without_what_a_terminal_would_obey(char, tiny_lm) -> None:
    def score(text: str) -> float:
        raise RuntimeError(f"cannot score {char}{text}")

    with pytest.raises(fk.PotentialError) as caught:
        fk.steer(tiny_lm().prompt("a", max_tokens=2), fk.reward(score), particles=2, seed=0)
    assert char not in str(caught.value) and escape(char) in str(caught.value)


@pytest.mark.parametrize("char", OBEYED, ids=ascii)
def test_a_report_of_check_shows_nothing_that_a_terminal_would_obey(char) -> None:
    report = Report()
    report.attempt(f"a {char}", lambda: [][0])
    assert char not in str(report) and escape(char) in repr(report)
