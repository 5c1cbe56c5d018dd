"""Ctrl-C in the midst of a fit: it goes through, leaves nothing behind, and the next call gives what is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from feynkac.models.edits import (
    Add,
    Clamp,
    Direction,
    Example,
    capture,
    choose_layer,
    describe,
    fit_function_vector,
    invert,
    measure_attention,
    profile_heads,
    target_features,
)

PAIRS = [("abc", "bcd"), ("ba", "cb"), ("ccab", "dabb")]


class Dictionary:
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)

    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        return feature_acts


def list_numbers(found: Any) -> torch.Tensor:
    if isinstance(found, torch.Tensor):
        return found
    return torch.cat([value.flatten().float() for value in dict(found).values()])


FITS: dict[str, Callable[[Any], Any]] = {
    "capture": lambda lm: capture(lm, ["abc", "bc", "c", "cd"], at="mean").at,
    "from_pairs": lambda lm: Direction.from_pairs(lm, PAIRS),
    "fit_function_vector": lambda lm: fit_function_vector(lm, ["ab", "cde", "a"], 1),
    "invert": lambda lm: invert(lm, "cab", 0, steps=4, prompt="d").direction,
    "choose_layer": lambda lm: torch.tensor(
        choose_layer(lm, Direction({0: torch.ones(32), 1: -torch.ones(32)}), ["ab", "c"])
    ),
    "describe": lambda lm: torch.tensor(
        [x for _, x in describe(lm, Direction({0: torch.ones(32)}), prompts=["ab", "c"]).raised]
    ),
    "profile_heads": lambda lm: profile_heads(lm, [Example("abcd", "bc", "e", ["fg"])]).gains,
    "target_features": lambda lm: target_features(lm, Dictionary(), ["ab", "c"], 0, vectors=3).matrix,
    "measure_attention": lambda lm: measure_attention(lm, "abcd", ["e", "fg"], "bc"),
    "an edited model": lambda lm: (
        capture(
            lm.edited(Add(torch.ones(32), layer=0, scope="all"), Clamp(Dictionary(), {1: 2.0}, layer=1)), ["ab", "c"]
        ).at
    ),
}


class Interrupts:
    """A hook of the user's, at whose n-th call Ctrl-C is pressed."""

    def __init__(self) -> None:
        self.calls, self.at = 0, -1

    def __call__(self, module: Any, args: Any, out: Any) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", ["first", "last"])
@pytest.mark.parametrize("name", FITS)
def test_an_interrupted_fit_leaves_nothing_behind(make_lm: Any, name: str, at: str) -> None:
    lm, fit = make_lm(), FITS[name]
    hook = Interrupts()
    lm.model.model.layers[1].register_forward_hook(hook)
    wanted = list_numbers(fit(lm))
    before = count_hooks(lm.model)
    assert hook.calls > 1
    hook.at = hook.calls + 1 if at == "first" else 2 * hook.calls
    with pytest.raises(KeyboardInterrupt):
        fit(lm)
    assert count_hooks(lm.model) == before
    assert not any(parameter.grad is not None for parameter in lm.model.parameters())
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    twins = lm.find_twins()
    assert all(count_hooks(twin.model) == count_hooks(twins._pristine) for twin in twins._free)
    # LAPACK's least squares differ in their last bit from call to call, by where their memory lies.
    torch.testing.assert_close(list_numbers(fit(lm)), wanted, rtol=1e-6, atol=1e-9)


def count_hooks(model: Any) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_a_twin_is_not_used_again_after_a_pass_that_was_interrupted(make_lm: Any) -> None:
    lm = make_lm()
    lm.score("ab", ["c"])
    twins = lm.find_twins()
    with pytest.raises(KeyboardInterrupt), twins.borrow() as twin:
        twin.model.model.layers[0].register_forward_hook(lambda *_: None)  # and no time to take it off
        raise KeyboardInterrupt
    assert twin not in twins._free
    with twins.borrow() as other:
        assert other is not twin and count_hooks(other.model) == 0
