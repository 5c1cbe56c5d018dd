"""What goes through models beneath is counted, whatever stands on them: targets, proposals, experts, programs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import feynkac as fk
from feynkac.models.edits import Add, DivergentLM
from feynkac.models.language.lm import CausalLM


def make(kind: str, lm: Any, text: str, **options: Any) -> Any:
    """A prompt of a model of which a token takes several beneath, or none."""
    if kind == "ensemble":
        return fk.ensemble([lm.prompt(text, **options), lm.prompt("a" + text)])
    if kind == "bytes":
        return fk.bytewise(lm, beam=4).prompt(text, **options)
    return DivergentLM(lm, Add(torch.ones(16), layer=0)).prompt(text, **options)


def target_of(kind: str, lm: Any, **options: Any) -> Any:
    """A prompt that one of this kind can propose for."""
    return fk.bytewise(lm, beam=4).prompt("bb", **options) if kind == "bytes" else lm.prompt("bb", **options)


@fk.program
def write(p: Any, lm: Any) -> str:
    return p.sample(lm.context("ab").gen(max_tokens=3))


CASES: dict[str, Any] = {
    "a target": lambda kind, lm: (make(kind, lm, "ab", max_tokens=6), fk.regex("[ab]*")),
    "a target with a list": lambda kind, lm: (make(kind, lm, "ab", max_tokens=6), fk.choices(["abab", "bba", "b"])),
    "a target redrawn": lambda kind, lm: (make(kind, lm, "ab", max_tokens=6), fk.regex("[ab]{6}")),
    "a target redrawn before a tail": lambda kind, lm: (make(kind, lm, "ab", max_tokens=6), fk.regex("[ab]{6}")),
    "a proposal": lambda kind, lm: (
        target_of(kind, lm, max_tokens=6, proposal=make(kind, lm, "ab")), fk.regex("[ab]*")),
    "an expert": lambda kind, lm: (target_of(kind, lm, max_tokens=6), fk.expert(make(kind, lm, "ab"))),
    "an expert that reads whole texts": lambda kind, lm: (
        target_of(kind, lm, max_tokens=4), fk.expert(make(kind, lm, "ab"))),
    "a program": lambda kind, lm: (write(make(kind, lm, "ab").lm), fk.reward(lambda text: 0.0)),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["ensemble", "bytes", "divergence"])
@pytest.mark.parametrize("case", CASES)
def test_a_result_counts_every_token_that_went_through_a_model(
    tiny_lm: Any, monkeypatch: Any, kind: str, case: str
) -> None:
    lm, stores, opened = tiny_lm("a", "b", seed=1), [], CausalLM._open
    monkeypatch.setattr(CausalLM, "_open", lambda *given: stores.append(opened(*given)) or stores[-1])
    moves = {"a target redrawn": fk.redraw(3), "a target redrawn before a tail": fk.redraw(2, tail=2)}
    options = {"moves": moves[case]} if case in moves else {}
    options |= {"algorithm": "best_of_n"} if case == "an expert that reads whole texts" else {}
    result = fk.steer(*CASES[case](kind, lm), particles=5, seed=0, **options)
    assert result.forwarded_tokens == sum(store.forwarded for store in stores) > 0
