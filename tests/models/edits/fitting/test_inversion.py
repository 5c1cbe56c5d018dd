"""Vectors that make a model write a sentence, and vectors of the heads of a task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from feynkac.base.errors import ArgumentError
from feynkac.models.edits import Add, Change, Prepared, ProjectOut, Shift, Steps, capture, fit_function_vector, invert
from feynkac.models.edits.fitting.inversion import Sought
from feynkac.models.edits.fitting.passes import read_texts


def score(lm: Any, sentence: str) -> float:
    return float(lm.score("a", [sentence], end=False)[0]) / len(sentence)


@pytest.mark.parametrize("layer", [0, -1])
def test_a_vector_makes_the_model_write_the_sentence(tiny_lm: Any, layer: int) -> None:
    lm, sentence = tiny_lm("a", "b", "c"), "bbbbb"
    lm.model.lm_head.weight.data *= 10.0  # else no activation at all makes a token certain
    found = invert(lm, sentence, layer, prompt="a", steps=100, rate=0.2)
    assert score(lm, sentence) < -1.0 and found.nats < 0.1
    edited = lm.edited(Add(found.direction))
    assert score(edited, sentence) == pytest.approx(-found.nats, abs=1e-4)
    assert list(found.direction) == [layer % 2]


def test_an_inversion_goes_through_the_edits_of_its_model(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b", "c").edited(Add(torch.arange(16.0), layer=0, scope="all"))
    found = invert(lm, "bb", 1, prompt="a", steps=20)
    assert score(lm.edited(Add(found.direction)), "bb") == pytest.approx(-found.nats, abs=1e-4)


def test_an_edit_that_a_run_has_used_can_be_differentiated_through(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b", "c").edited(ProjectOut(torch.arange(16.0), layer=0, scope="all"))
    wanted = invert(lm.plain.edited(*(replace(edit) for edit in lm.edits)), "bb", 1, prompt="a", steps=2)
    score(lm, "bb")
    assert invert(lm, "bb", 1, prompt="a", steps=2).nats == wanted.nats


def test_gradients_are_those_of_finite_differences(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b", "c")
    lm.model.double()
    sought = Sought(lm, read_texts(lm, [("a", "bca")])[0], "model.layers.0")
    vector = torch.randn(16, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(sought.measure(vector)[0], [vector])
    with torch.no_grad():
        for i in (0, 7, 15):
            step = 1e-2 * torch.nn.functional.one_hot(torch.tensor(i), 16)
            slope = (sought.measure(vector + step)[0] - sought.measure(vector - step)[0]) / 2e-2
            assert float(slope) == pytest.approx(float(gradient[i]), abs=2e-4)


def test_no_gradient_is_left_on_the_users_model(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b", "c")
    lm.model.train()
    before = [parameter.clone() for parameter in lm.model.parameters()]
    with torch.inference_mode():  # nor does it matter where it is called
        found = invert(lm, "b", 0, prompt="a", steps=3)
    assert lm.model.training and all(p.grad is None and p.requires_grad for p in lm.model.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, lm.model.parameters(), strict=True))
    assert not found.direction[0].requires_grad
    assert not any(module._forward_hooks for module in lm.model.modules())


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2", "bamba"])
def test_a_twin_made_in_a_run_can_be_differentiated(make_lm: Any, kind: str) -> None:
    lm = make_lm(kind)
    lm.score("ab", ["c"])
    assert not any(buffer.is_inference() for buffer in _only_twin(lm).buffers())
    assert invert(lm, "cd", 0, prompt="ab", steps=2).nats > 0


def _only_twin(lm: Any) -> Any:
    with lm.find_twins().borrow() as twin:
        return twin.model


@pytest.mark.parametrize(
    ("sentence", "layer", "options", "said"),
    [
        ("", 0, {}, "the response of sentence"),
        ("b", 2, {}, "layers 0..1"),
        ("b", [0, 1], {}, "give one number"),
        ("b", 0, {"steps": 0}, "steps is 0"),
        ("b", 0, {"rate": 0.0}, "no vector at layer 0"),
        ("b", 0, {"prompt": ""}, "the prompt is empty"),
    ],
)
def test_what_cannot_be_inverted_is_said(tiny_lm: Any, sentence: str, layer: Any, options: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        invert(tiny_lm("a", "b", "c"), sentence, layer, **{"prompt": "a", "steps": 1, **options})


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_function_vector_is_what_its_heads_add(make_lm: Any, kind: str) -> None:
    lm, prompts = make_lm(kind), ["ab:cd:ef".replace(":", "0"), "xy0zx"]
    every = [(1, head) for head in range(4)]
    whole = fit_function_vector(lm, prompts, 1, every)[1]
    attention = capture(lm, prompts, 1, of="attention").at[1].mean(0)
    bias = lm.model.transformer.h[1].attn.c_proj.bias.detach() if kind == "gpt2" else torch.zeros(32)
    torch.testing.assert_close(whole, attention - bias, atol=1e-4, rtol=1e-4)
    parts = [fit_function_vector(lm, prompts, 1, [head])[1] for head in every]
    torch.testing.assert_close(sum(parts), whole, atol=1e-4, rtol=1e-4)
    below = fit_function_vector(lm, prompts, 1)[1] - whole  # all heads of layers 0 and 1
    torch.testing.assert_close(
        below, fit_function_vector(lm, prompts, 0, [(0, head) for head in range(4)])[0], atol=1e-4, rtol=1e-4
    )
    assert len(lm.edited(Add(fit_function_vector(lm, prompts, 0), scope=Steps(0, 0))).edits) == 1


@pytest.mark.parametrize("heads", [[], [(0, 4)], [(0, -1)], [0], [(2, 0)], [(0, 0.5)]])
def test_heads_that_do_not_exist_are_refused(make_lm: Any, heads: Any) -> None:
    with pytest.raises(ArgumentError, match=r"head|layer"):
        fit_function_vector(make_lm(), ["ab"], 1, heads)


OUTPUT = "model.layers.0.self_attn.o_proj"


@dataclass
class Doubled:
    """As an adapter does, it goes by what the module is given."""

    def prepare(self, anatomy: Any) -> Prepared:
        weight = anatomy.model.get_submodule(OUTPUT).weight.detach()
        return Prepared(
            [Change(OUTPUT, lambda value, given, where: value + (where.steps >= 0)[..., None] * (given @ weight.T))]
        )


def test_a_function_vector_is_what_the_edited_projection_makes_of_its_heads(make_lm: Any) -> None:
    lm, prompts = make_lm(), ["abc", "bcd"]
    wanted = 2.0 * fit_function_vector(lm, prompts, 0)[0]
    weight = lm.model.get_submodule(OUTPUT).weight.detach().clone()
    for edit in (Shift({f"{OUTPUT}.weight": weight}), Doubled()):
        torch.testing.assert_close(fit_function_vector(lm.edited(edit), prompts, 0)[0], wanted)
