"""What is captured, against plain hooks on the plain model; what is left alone; what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models.edits import Activations, Add, DivergentLM, capture

TEXTS = ["hello", "ab", "world", "a", "hullo", "zz7Qb"]
NAMES = {
    "llama": {"residual": "model.layers.1", "attention": "model.layers.1.self_attn", "mlp": "model.layers.1.mlp",
              "heads": "model.layers.1.self_attn.o_proj"},
    "qwen3": {"residual": "model.layers.1", "heads": "model.layers.1.self_attn.o_proj"},
    "gpt2": {"residual": "transformer.h.1", "attention": "transformer.h.1.attn", "mlp": "transformer.h.1.mlp",
             "heads": "transformer.h.1.attn.c_proj"},
}  # fmt: skip


def listen(lm: Any, module: str, ids: Any, inputs: bool = False) -> torch.Tensor:
    """(T, d) of one text, by a plain hook on the user's model."""
    heard = []

    def hook(module: Any, args: Any, out: Any) -> None:
        heard.append(args[0] if inputs else out[0] if isinstance(out, tuple) else out)

    handle = lm.model.get_submodule(module).register_forward_hook(hook)
    try:
        with torch.no_grad():
            lm.model(input_ids=torch.tensor([list(ids)]), use_cache=False)
    finally:
        handle.remove()
    return heard[0][0]


@pytest.mark.parametrize(("kind", "of"), [(kind, of) for kind, places in NAMES.items() for of in places])
def test_a_capture_is_what_a_plain_hook_sees(make_lm: Any, kind: str, of: Any) -> None:
    lm = make_lm(kind)
    found = capture(lm, TEXTS, [-1], of=of)
    assert len(found) == len(TEXTS) and list(found.at) == [1]
    for value, text in zip(found.at[1], TEXTS, strict=True):
        wanted = listen(lm, NAMES[kind][of], lm.begin(text), of == "heads")[-1]
        torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-5)


def test_what_is_captured_of_a_text_does_not_depend_on_the_others(make_lm: Any) -> None:
    lm = make_lm()
    together = capture(lm, TEXTS, at="mean")
    for i, text in enumerate(TEXTS):
        alone = capture(lm, [text], at="mean")
        for layer in (0, 1):
            torch.testing.assert_close(together.at[layer][i], alone.at[layer][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("at", "wanted"),
    [("last", [5]), ("mean", [3, 4, 5]), (0, [3]), (-2, [4]), (2, [5])],
)
def test_only_the_response_is_read_of_a_pair(make_lm: Any, at: Any, wanted: list[int]) -> None:
    lm = make_lm()
    found = capture(lm, [("abc", "def")], 0, at).at[0][0]
    whole = listen(lm, "model.layers.0", lm.begin("abcdef"))
    torch.testing.assert_close(found, whole[wanted].mean(0), atol=1e-5, rtol=1e-5)


def test_a_mean_leaves_out_the_first_token_unless_it_is_the_only_one(make_lm: Any) -> None:
    lm = make_lm()
    found = capture(lm, ["abc", "a"], 0, "mean").at[0]
    torch.testing.assert_close(found[0], listen(lm, "model.layers.0", lm.begin("abc"))[1:].mean(0))
    torch.testing.assert_close(found[1], listen(lm, "model.layers.0", lm.begin("a"))[0])


def test_several_positions_are_read_each_for_itself(make_lm: Any) -> None:
    lm = make_lm()
    found = capture(lm, ["abcd", "bcdea"], 1, range(1, 3)).at[1]
    assert found.shape == (2, 2, 32)
    torch.testing.assert_close(found[1], listen(lm, "model.layers.1", lm.begin("bcdea"))[1:3], atol=1e-5, rtol=1e-5)


def test_prompts_of_the_model_are_captured_as_their_tokens(make_lm: Any) -> None:
    lm = make_lm()
    given = capture(lm, [lm.prompt(tokens=list(lm.begin("abc"))), (lm.prompt("ab"), "c")], 1).at[1]
    torch.testing.assert_close(given, capture(lm, ["abc", "abc"], 1).at[1], atol=1e-5, rtol=1e-5)


def test_edits_of_the_model_count(make_lm: Any) -> None:
    lm, v = make_lm(), torch.arange(32.0)
    edited = lm.edited(Add(v, layer=1, scope="response"))
    plain, found = capture(lm, [("ab", "cd"), "abcd"], 1, range(2)), None
    found = capture(edited, [("ab", "cd"), "abcd"], 1, range(2))
    moved = found.at[1] - plain.at[1]
    torch.testing.assert_close(moved[0], torch.stack([v, v]), atol=1e-4, rtol=1e-4)  # behind the prompt's last token
    torch.testing.assert_close(moved[1], torch.zeros(2, 32), atol=1e-4, rtol=1e-4)


def test_entropies_are_those_of_the_next_token(make_lm: Any) -> None:
    lm = make_lm()
    found = capture(lm, TEXTS, 0).entropy
    with torch.no_grad():
        laws = [lm.model(input_ids=torch.tensor([lm.begin(text)])).logits[0, -1].softmax(0) for text in TEXTS]
    assert found is not None
    torch.testing.assert_close(found, torch.stack([-(p * p.log()).sum() for p in laws]), atol=1e-4, rtol=1e-4)


def test_threads_capture_what_each_captures_alone(make_lm: Any) -> None:
    lm = make_lm()
    models = [lm, lm.edited(Add(torch.ones(32), layer=0, scope="all"))] * 3
    alone = [capture(model, TEXTS, at="mean").at[1] for model in models]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda model: capture(model, TEXTS, at="mean").at[1], models))
    assert all(torch.equal(one, other) for one, other in zip(alone, found, strict=True))
    assert not torch.equal(alone[0], alone[1])


def test_the_model_is_left_as_it_is(make_lm: Any) -> None:
    lm = make_lm()
    lm.model.train()
    before = {name: parameter.clone() for name, parameter in lm.model.named_parameters()}
    found = capture(lm, TEXTS)
    assert lm.model.training and not any(module._forward_hooks for module in lm.model.modules())
    assert all(torch.equal(parameter, before[name]) for name, parameter in lm.model.named_parameters())
    assert not found.at[0].is_inference() and not found.at[0].requires_grad
    with pytest.raises(ArgumentError):
        capture(lm, TEXTS, at=9)
    twin_hooks = lm.find_twins()._pristine.modules()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in twin_hooks)


@pytest.mark.parametrize(
    ("texts", "given", "said"),
    [
        ("abc", {}, "give a list of texts"),
        ([], {}, "texts is empty"),
        (["a", ""], {}, r"texts\[1\] is empty"),
        ([("a", "")], {}, r"the response of texts\[0\] is ''"),
        ([3], {}, r"texts\[0\] is 3"),
        (["a"], {"layers": 2}, "layers 0..1"),
        (["a"], {"layers": []}, "no layer"),
        (["abc", "a"], {"at": 1}, r"the text of texts\[1\] has 1 tokens only"),
        ([("abc", "d")], {"at": 1}, "the response of"),
        (["abc"], {"at": "first"}, "at is 'first'"),
        (["abc"], {"at": 1.5}, "at is 1.5"),
        (["abc"], {"at": range(0)}, "at is range"),
        (["abc"], {"of": "embedding"}, "embedding"),
        (["abc"], {"of": "keys"}, "of is 'keys'"),
    ],
)
def test_what_cannot_be_captured_is_said(make_lm: Any, texts: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        capture(make_lm(), texts, **given)


def test_a_model_without_a_pass_of_its_own_is_refused(make_lm: Any) -> None:
    lm = DivergentLM(make_lm(), Add(torch.ones(32), layer=0))
    with pytest.raises(ArgumentError, match="those of a CausalLM"):
        capture(lm, ["ab"])  # type: ignore[arg-type]


def test_a_text_beyond_the_window_is_refused_by_number(make_lm: Any) -> None:
    with pytest.raises(ModelError, match=r"texts\[1\] has 200 tokens"):
        capture(make_lm(), ["a", "ab" * 100])


@pytest.mark.parametrize(
    "at", [{}, {0: torch.zeros(3, 4), 1: torch.zeros(2, 4)}, {0: torch.zeros(3)}, {0: torch.full((2, 4), torch.nan)}]
)
def test_activations_of_unequal_shapes_are_refused(at: Any) -> None:
    with pytest.raises(ArgumentError, match="activations"):
        Activations(at)
