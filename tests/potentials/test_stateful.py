"""Automata of constraints, asked in random order about many states at once, against one that reads each text anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

import feynkac as fk
from feynkac.base.masks import mask_within
from feynkac.base.vocabulary import Vocabulary

TOKENS = (b"", b"a", b"b", b"ab", b"(", b")", b'"', b"1", b"{", b"}", b":", b" ", b"\xc3", b"\xa9")
VOCABULARY = Vocabulary(TOKENS, (0,))
KINDS: dict[str, Callable[[], Any]] = {
    "regex": lambda: fk.regex(r"(a|ab)*1?é*"),
    "choices": lambda: fk.choices(["a", "ab", "abab", '"é"']),
    "phrases": lambda: fk.phrases(ban=["aba"], require=["1"]),
    "length": lambda: fk.length(1, 3, "character"),
    "tokens": lambda: fk.length(1, 3),
    "earley": lambda: fk.grammar('start: "(" start ")" | "a"*'),
    "llguidance": lambda: fk.grammar('start: "(" start ")" | "a"', engine="llguidance"),
    "json_schema": lambda: fk.json_schema({"type": "object", "properties": {"a": {"type": "integer"}}}),
    "strings": lambda: fk.json_schema({"type": "string", "maxLength": 2}),
    "after": lambda: fk.after(":", fk.regex("a*")),
    "parser": lambda: fk.parser(_close, 0, lambda depth: depth == 0, timeout=None),
}


def _close(depth: int, byte: bytes) -> int | None:
    return {b"(": depth + 1, b")": depth - 1 if depth else None}.get(byte, depth)


class Automata(RuleBasedStateMachine):
    """A population of states: tokens put behind some, states forked, all asked at once."""

    kind = ""

    @initialize()
    def open(self) -> None:
        self.automaton = KINDS[self.kind]().automaton(VOCABULARY)
        self.states, self.texts = np.array([self.automaton.start] * 2), [[], []]

    @rule(data=st.data())
    def advance(self, data: Any) -> None:
        n = len(self.texts)
        some = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True))
        tokens = data.draw(st.lists(st.integers(1, len(TOKENS) - 1), min_size=len(some), max_size=len(some)))
        self.states[some] = self.automaton.advance(self.states[some], np.array(tokens))
        for i, token in zip(some, tokens, strict=True):
            self.texts[i] = [*self.texts[i], token]
        self.check()

    @rule(data=st.data())
    def follow_a_mask(self, data: Any) -> None:
        """A token that may come, so that some texts grow long."""
        i = data.draw(st.integers(0, len(self.texts) - 1))
        allowed = self.ask(self.automaton, self.states[[i]])[0][0]
        may = [token for token in sorted(allowed) if token]
        if self.states[i] >= 0 and may:
            token = data.draw(st.sampled_from(may))
            self.states[i] = self.automaton.advance(self.states[[i]], np.array([token]))[0]
            self.texts[i] = [*self.texts[i], token]
            assert self.states[i] >= 0

    @rule(data=st.data())
    def fork(self, data: Any) -> None:
        rows = data.draw(st.lists(st.integers(0, len(self.texts) - 1), min_size=1, max_size=6))
        self.states, self.texts = self.states[rows], [self.texts[i] for i in rows]
        self.check()

    def check(self) -> None:
        living = np.flatnonzero(self.states >= 0)
        distinct = np.unique(self.states[living])
        masks, ends = self.ask(self.automaton, distinct) if len(distinct) else ([], [])
        known = dict(zip(distinct.tolist(), zip(masks, ends, strict=True), strict=True))
        for state, text in zip(self.states.tolist(), self.texts, strict=True):
            wanted = self.read_anew(text)
            assert (known[state] if state >= 0 else None) == wanted, text

    def read_anew(self, text: list[int]) -> tuple[set[int], bool] | None:
        """What an automaton of its own says behind a text; None where it may not come."""
        automaton = KINDS[self.kind]().automaton(VOCABULARY)
        state = np.array([automaton.start])
        for token in text:
            state = automaton.advance(state, np.array([token]))
            if state[0] < 0:
                return None
        (mask,), (end,) = self.ask(automaton, state)
        return mask, end

    def ask(self, automaton: Any, states: Any) -> tuple[list[set[int]], list[bool]]:
        masks = mask_within(automaton, states, np.full(len(states), 50))
        bits = np.unpackbits(np.ascontiguousarray(masks, "<u4").view(np.uint8), axis=1, bitorder="little")
        return [set(np.flatnonzero(row).tolist()) for row in bits], automaton.accepts(states).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_states_that_many_texts_share_say_what_each_text_read_anew_says(kind) -> None:
    run_state_machine_as_test(type("Machine", (Automata,), {"kind": kind}), settings=_settings(3, 8))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_longer_walks_in_random_order(kind) -> None:
    run_state_machine_as_test(type("Machine", (Automata,), {"kind": kind}), settings=_settings(200, 40))


def _settings(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples, stateful_step_count=steps, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
