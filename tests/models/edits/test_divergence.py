"""Edits as strong as what they change, against plain passes that know the strength of every position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_edited import recompute, vector, walk
from tiny import tiny

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.models.edits import Add, DivergentLM, Emphasise

PROMPTS = [[5, 9, 3, 7, 1], [4, 8], [8, 2, 6, 11, 30]]


def lm_of(model: Any, monkeypatch: Any) -> Any:
    from tokenizers_of_kinds import byte_level, wrap

    from feynkac.models.language.lm import CausalLM

    return CausalLM(model, wrap(byte_level()), eos=2)


@pytest.mark.parametrize("kind", ["llama", "bamba"])
def test_every_position_is_edited_by_the_divergence_behind_it(kind: str, monkeypatch: Any) -> None:
    model, v = tiny(kind), vector(4)
    plain = lm_of(model, monkeypatch)
    lm = DivergentLM(plain, Add(v, layer=0), most=0.015)
    name = "model.layers.0"
    memory: dict[Any, float] = {}

    def strength(text: list[int], g: int) -> float:
        """Of the last position, by whole passes."""
        if (tuple(text), g) not in memory:
            at = len(PROMPTS[g]) - 1
            laws = [
                torch.log_softmax(recompute(model, name, text, change).double(), 0)
                for change in (lambda x, i: x, lambda x, i: x + (i >= at)[:, None] * v)
            ]
            memory[tuple(text), g] = float((laws[1].exp() * (laws[1] - laws[0])).sum().clamp(0.0, 0.015))
        return memory[tuple(text), g]

    def wanted(text: list[int], g: int) -> torch.Tensor:
        start = len(PROMPTS[g])
        amounts = [strength(text[: i + 1], g) if i >= start - 1 else 0.0 for i in range(len(text))]
        return recompute(model, name, text, lambda value, at: value + torch.tensor(amounts)[:, None] * v)

    walk(lm.open(PROMPTS, 8), PROMPTS, 1, wanted)
    assert 0.0 < min(memory.values()) < 0.015 == max(memory.values())


def test_it_steers_scores_and_is_counted(tiny_lm: Any) -> None:
    plain = tiny_lm("a", "b")
    head = plain.model.lm_head.weight.detach()
    lm = DivergentLM(plain, Add(2000.0 * (head[1] - head[2]), layer=1), most=1.0)
    texts = fk.steer(lm.prompt("a", max_tokens=6), particles=200, seed=0).texts
    base = fk.steer(plain.prompt("a", max_tokens=6), particles=200, seed=0)
    assert np.mean([text.count("a") for text in texts]) > np.mean([text.count("a") for text in base.texts]) + 0.3
    assert lm.score("a", ["ab"]) != plain.score("a", ["ab"])
    one = fk.steer(lm.prompt("a", max_tokens=1), fk.expert(lm.prompt("b")), particles=4, seed=0)
    assert np.isfinite(one.log_evidence)


def test_appending_several_tokens_is_appending_them_one_by_one(tiny_lm: Any) -> None:
    lm = DivergentLM(tiny_lm("a", "b"), Add(vector(1, 16), layer=0))
    one, other = lm.open([[1, 2]], 6), lm.open([[1, 2]], 6)
    one.start(), other.start()
    many = one.append(np.array([0, 0]), [[1, 2, 1], [2]], every=True)
    first = other.extend(np.array([0, 0]), np.array([1, 2]))
    second = other.extend(np.array([0, 1]), np.array([2, -1]))
    torch.testing.assert_close(many[[0, 3]], first)
    torch.testing.assert_close(many[[1]], second)


def test_what_has_no_strength_at_each_token_is_refused(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")
    with pytest.raises(ArgumentError, match="changes no activations"):
        DivergentLM(lm, Emphasise("a"))
    for bad in (0.0, -1.0, float("nan"), "2"):
        with pytest.raises(ArgumentError, match="most is"):
            DivergentLM(lm, Add(vector(1, 16), layer=0), most=bad)  # pyright: ignore[reportArgumentType]
