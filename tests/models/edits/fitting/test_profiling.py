"""Each head alone, against scores of models with that one edit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from feynkac.base.errors import ArgumentError
from feynkac.models.edits import Emphasise, Example, profile_heads


def test_the_gain_of_a_head_is_that_of_its_own_emphasis(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b", seed=3)
    examples = [Example("abaab", "baa", "ab", ["ba", "b"]), Example("bba", "bb", "b", ["a"])]
    profile = profile_heads(lm, examples, alpha=0.05)
    assert profile.gains.shape == (2, 4)

    def odds(model: Any, example: Example) -> float:
        scores = model.score(example.prompt, [example.answer, *example.others], end=False)
        return float(scores[0] - np.logaddexp.reduce(scores[1:]))

    for layer in range(2):
        for head in range(4):
            gain = np.mean([
                odds(lm.edited(Emphasise(one.span, 0.05, heads={layer: [head]})), one) - odds(lm, one)
                for one in examples
            ])  # fmt: skip
            assert profile.gains[layer, head] == pytest.approx(gain, abs=1e-5)
    assert profile.gains.abs().max() > 1e-3


def test_the_best_heads_are_those_that_gain_most(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b", seed=3)
    profile = profile_heads(lm, [Example("abaab", "baa", "ab")], layers=[1])
    assert torch.isneginf(profile.gains[0]).all() and profile.gains[1].isfinite().all()
    best = profile.best(2)
    assert all(layer == 1 and len(heads) <= 2 for layer, heads in best.items())
    if best:
        assert profile.gains[1, best[1]].min() > 0.0
    lm.edited(Emphasise("baa", heads=best or {1: [0]})).prompt("abaab")


def test_examples_that_cannot_be_used_are_refused(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")
    cases = {
        "must be a list of Example": [],
        "does not hold 'bb'": [Example("ab", "bb", "a")],
        "that is not empty": [Example("ab", "b", "")],
    }
    for wanted, examples in cases.items():
        with pytest.raises(ArgumentError, match=wanted):
            profile_heads(lm, examples)
    with pytest.raises(ArgumentError, match="must be a list of Example"):
        profile_heads(lm, Example("ab", "b", "a"))  # pyright: ignore[reportArgumentType]
