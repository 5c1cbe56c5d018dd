"""Patterns as people write them: a text is accepted if and only if `re.fullmatch` accepts it."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from feynkac.base.errors import ConstraintError
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials import regex

PATTERNS = (Path(__file__).parent / "patterns.txt").read_text(encoding="utf-8").splitlines()
REFUSED = [pattern for pattern in PATTERNS if "(?!" in pattern or "(?=" in pattern]
SUPPORTED = [pattern for pattern in PATTERNS if pattern not in REFUSED]
BYTES = Vocabulary((*(bytes([b]) for b in range(256)), b""), (256,))


def accepts(dfa: Any, text: str) -> bool:
    state, within = 0, 0
    for byte in text.encode():
        move = int(dfa.alphabet.step[within, byte])
        within = max(move, 0)
        if move == -1:
            return False
        state = int(dfa.delta[state, -2 - move]) if move <= -2 else state
        if state < 0:
            return False
    return bool(dfa.accept[state])


def write(automaton: Any, rng: Any, most: int) -> str | None:
    """A random text that an automaton over bytes accepts, if it comes to one within `most` bytes."""
    state, written = np.zeros(1, np.int64), bytearray()
    while len(written) < most:
        row = np.unpackbits(automaton.masks(state).view(np.uint8), bitorder="little")[:257]
        moves = np.flatnonzero(row)
        # Ends, and plain characters, are drawn more often than they would be.
        weight = np.where(moves == 256, 40.0, np.where(moves < 128, 8.0, 1.0))
        byte = int(rng.choice(moves, p=weight / weight.sum()))
        if byte == 256:
            break
        written.append(byte)
        state = automaton.advance(state, np.array([byte]))
    return written.decode() if automaton.accepts(state)[0] else None


def mutate(text: str, rng: Any) -> str:
    at = int(rng.integers(len(text) + 1))
    other = "aZ09 _-.,:/@é€\n'\"ſK😀"[int(rng.integers(20))]
    return [text[:at] + text[at + 1 :], text[:at] + other + text[at:], text[:at] + other + text[at + 1 :],
            text + text[:at], text.swapcase(), text[::-1]][int(rng.integers(6))]  # fmt: skip


def test_there_are_a_few_hundred() -> None:
    assert len(set(SUPPORTED)) == len(SUPPORTED) >= 200


@pytest.mark.parametrize("part", range(8))
def test_a_text_is_accepted_iff_fullmatch_accepts_it(part: int) -> None:
    """Texts that the automaton writes must match; those and their mutants, accepted or not, are judged alike."""
    for number in range(part, len(SUPPORTED), 8):
        constraint, rng = regex(SUPPORTED[number]), np.random.default_rng(number)
        compiled, dfa = re.compile(SUPPORTED[number]), constraint.dfa
        automaton = constraint.automaton(BYTES)
        written = [text for _ in range(6) if (text := write(automaton, rng, 60)) is not None]
        for text in written:
            assert compiled.fullmatch(text), (SUPPORTED[number], text)
        for text in ["", "a", *written]:
            for _ in range(8):
                text = mutate(text, rng)[:40]
                if ("(x+x+)+" not in SUPPORTED[number] and "(a+)+" not in SUPPORTED[number]) or len(text) < 16:
                    assert accepts(dfa, text) == bool(compiled.fullmatch(text)), (SUPPORTED[number], text)


@functools.cache
def build_once(pattern: str) -> Any:
    return regex(pattern).dfa


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(SUPPORTED), st.data())
def test_what_python_writes_is_accepted(pattern: str, data: Any) -> None:
    text = data.draw(st.from_regex(pattern, fullmatch=True))
    assert accepts(build_once(pattern), text) == bool(re.fullmatch(pattern, text))


@pytest.mark.parametrize("pattern", REFUSED)
def test_look_around_is_refused_by_name(pattern: str) -> None:
    with pytest.raises(ConstraintError, match="look-around"):
        regex(pattern)
