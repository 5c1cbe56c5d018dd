"""Each head alone, against scores of models with that one edit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from feynkac.base.errors import ArgumentError
from feynkac.models.edits import Add, Emphasise, Example, capture, fit_function_vector, profile_effects, profile_heads


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


def patch(lm: Any, text: str, layer: int, head: int, value: torch.Tensor) -> float:
    """log p of the last character of `text`, by a plain pass in which a head gives `value` at the token before it."""
    ids = [*lm.begin(text)]

    def hook(module: Any, args: Any) -> Any:
        new = args[0].clone()
        new[0, -2, head * 8 : (head + 1) * 8] = value
        return (new,)

    handle = lm.model.get_submodule(f"model.layers.{layer}.self_attn.o_proj").register_forward_pre_hook(hook)
    try:
        with torch.inference_mode():
            return float(lm.model(input_ids=torch.tensor([ids])).logits[0, -2].log_softmax(0)[ids[-1]])
    finally:
        handle.remove()


PROMPTS, CORRUPTED = ["abcab", "bcabc", "acb"], [("abbca", "c"), ("cbab", "a")]


def test_the_effect_of_a_head_is_that_of_its_mean_in_a_corrupted_prompt(make_lm: Any) -> None:
    lm = make_lm()
    profile = profile_effects(lm, PROMPTS, CORRUPTED)
    means = capture(lm, PROMPTS, at="last", of="heads").at
    for layer in range(2):
        for head in range(4):
            mean = means[layer].mean(0)[head * 8 : (head + 1) * 8]
            gain = np.mean([
                patch(lm, text + answer, layer, head, mean) - lm.score(text, [answer], end=False)[0]
                for text, answer in CORRUPTED
            ])  # fmt: skip
            assert profile.gains[layer, head] == pytest.approx(gain, abs=1e-5)
    assert profile.gains.abs().max() > 1e-3


def test_a_planted_head_alone_has_an_effect_and_makes_the_function_vector(make_lm: Any) -> None:
    """Of the last layer only head 2 reaches the residual, so that the others change nothing."""
    lm = make_lm()
    with torch.no_grad():
        output = lm.model.model.layers[1].self_attn.o_proj.weight
        output[:, :16], output[:, 24:] = 0.0, 0.0
    profile = profile_effects(lm, PROMPTS, [(text, answer) for text, answer in CORRUPTED], layers=[1])
    assert torch.isneginf(profile.gains[0]).all()
    assert profile.gains[1, [0, 1, 3]].abs().max() < 1e-6 < profile.gains[1, 2].abs()
    found = fit_function_vector(lm, PROMPTS, 1, {1: [2]})[1]
    torch.testing.assert_close(found, fit_function_vector(lm, PROMPTS, 1, [(1, head) for head in range(4)])[1])


def test_effects_are_those_of_the_model_with_its_edits(make_lm: Any) -> None:
    lm = make_lm()
    edited = lm.edited(Add(torch.arange(32.0), layer=0, scope="all"))
    assert not profile_effects(edited, PROMPTS, CORRUPTED).gains.allclose(profile_effects(lm, PROMPTS, CORRUPTED).gains)


@pytest.mark.parametrize(
    ("prompts", "corrupted", "said"),
    [
        ([], CORRUPTED, "texts is empty"),
        (PROMPTS, [], "must be a list of"),
        (PROMPTS, "abc", "must be a list of"),
        (PROMPTS, ["abc"], "must be a list of"),
        (PROMPTS, [("ab", "")], r"the response of corrupted\[0\]"),
    ],
)
def test_effects_of_nothing_are_refused(make_lm: Any, prompts: Any, corrupted: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        profile_effects(make_lm(), prompts, corrupted)
