"""An interrupt while a constraint finds something out: what it remembers is right all the same, in later runs, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials.constraints.automata.distances import ByteDistances
from feynkac.potentials.constraints.engines.earley.parsing import Parser
from feynkac.potentials.constraints.engines.llguidance import table

TOKENS = [bytes([byte]) for byte in b'ab()-x{}":,01 '] + [b"ab", b'{"', b"a)"]
VOCABULARY = Vocabulary((*TOKENS, b""), (len(TOKENS),))
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def _walk(automaton: Any, text: bytes) -> list[Any]:
    """All that an automaton says along a text, one byte after the other, and of what branches off."""
    said, states = [], np.array([automaton.start])
    for byte in text:
        said += [automaton.masks(states).tolist(), automaton.masks_within(states, np.array([3])).tolist()]
        said.append(automaton.accepts(states).tolist())
        before, states = states, automaton.advance(states, np.array([TOKENS.index(bytes([byte]))]))
        branches = automaton.advance(np.repeat(before, len(TOKENS)), np.arange(len(TOKENS)))
        said.append((branches >= 0).tolist())
    return [*said, (states >= 0).tolist()]


@pytest.mark.parametrize(
    ("constraint", "text", "owner", "name"),
    [
        (fk.regex("(ab|b-){2,5}x[01]{1,3}"), b"abb-x1", ByteDistances, "__call__"),
        (fk.grammar('start: e\ne: e "-" t | t\nt: "(" e ")" | "a" | "b" t'), b"(a-ba)", Parser, "count_needed"),
        (fk.json_schema(SCHEMA), b'{"a":1', table._Paths, "tokens"),
    ],
    ids=["regex", "grammar", "schema"],
)
def test_an_interrupt_leaves_nothing_half_known(monkeypatch, constraint, text, owner, name) -> None:
    """It comes at each call of what is asked on the way, one after the other."""
    wanted = _walk(constraint.compile(VOCABULARY), text)
    done, right, call = False, getattr(owner, name), 0
    while not done and call < 100:
        automaton, call, calls = constraint.compile(VOCABULARY), call + 1, 0

        def interrupt(*args: Any, at: int = call) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                raise KeyboardInterrupt
            return right(*args)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupt)
            try:
                done = _walk(automaton, text) == wanted
            except KeyboardInterrupt:
                done = False
        assert _walk(automaton, text) == wanted, f"interrupted at call {call}"
    assert done
    assert call > 1
