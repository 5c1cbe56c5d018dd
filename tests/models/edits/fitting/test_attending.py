"""Attention shares against a plain pass that returns its attentions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models.edits import Add, Emphasise, Span, measure_attention

PROMPT, TEXTS = "abcdefgh", ["ijk", "lm", "aaa"]


def plain(lm: Any, text: str, marked: list[int]) -> torch.Tensor:
    """(layers, heads)"""
    model = copy.deepcopy(lm.model)
    model.set_attn_implementation("eager")
    ids = torch.tensor([[*lm.begin(PROMPT), *lm.spell(text)]])
    with torch.inference_mode():
        every = torch.stack(model(input_ids=ids, use_cache=False, output_attentions=True).attentions)[:, 0]
    return every[:, :, len(lm.begin(PROMPT)) :, marked].sum(3).mean(2)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gemma2", "gemma3", "mixtral"])
def test_shares_are_those_of_a_plain_pass_with_its_attentions(make_lm: Any, kind: str) -> None:
    lm = make_lm(kind)
    marked = [len(lm.begin(PROMPT)) - 8 + i for i in (2, 3, 4)]
    before = lm.model.config._attn_implementation
    found = measure_attention(lm, PROMPT, TEXTS, "cde")
    wanted = torch.stack([plain(lm, text, marked) for text in TEXTS])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    some = measure_attention(lm, lm.prompt(PROMPT), TEXTS, Span("cde"), layers=[-1, 0], heads=[3, 1])
    torch.testing.assert_close(some, wanted[:, [1, 0]][:, :, [3, 1]], atol=1e-5, rtol=1e-4)
    assert lm.model.config._attn_implementation == before


def test_a_twin_attends_as_before_when_it_was_measured(make_lm: Any) -> None:
    lm = make_lm()
    before = lm.score(PROMPT, TEXTS)
    measure_attention(lm, PROMPT, TEXTS, "cde")
    with lm.find_twins().borrow() as twin:
        assert twin.model.config._attn_implementation == lm.model.config._attn_implementation != "eager"
        assert not any(module._forward_hooks for module in twin.model.modules())
    assert (lm.score(PROMPT, TEXTS) == before).all()


def test_edits_count_in_attention(make_lm: Any) -> None:
    """Of an emphasised span the odds against what is damped grow by 1 / alpha, head by head, in the first layer."""
    lm = make_lm()
    rest = [measure_attention(lm, PROMPT, TEXTS, one, layers=0) for one in ("bcd", "fgh")]
    edited = lm.edited(Emphasise("bcd", alpha=0.1))
    told = [measure_attention(edited, PROMPT, TEXTS, one, layers=0) for one in ("bcd", "fgh")]
    assert (told[0] > rest[0]).all() and (told[1] < rest[1]).all()
    one = "i"  # of a single token, so that no mean is taken
    odds = [
        measure_attention(model, PROMPT, [one], "bcd", 0) / measure_attention(model, PROMPT, [one], "fgh", 0)
        for model in (lm, edited)
    ]
    torch.testing.assert_close(odds[1], odds[0] / 0.1, rtol=1e-4, atol=1e-6)
    moved = lm.edited(Add(torch.ones(32), of="embedding", scope="all"))
    assert not torch.allclose(
        measure_attention(moved, PROMPT, TEXTS, "bcd"), measure_attention(lm, PROMPT, TEXTS, "bcd")
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"texts": "ijk"}, "list of texts"),
        ({"texts": []}, "at least one"),
        ({"texts": ["ij", ""]}, "texts[1]"),
        ({"span": "xyz"}, "does not hold"),
        ({"prompt": "abab", "span": "ab"}, "2 times"),
        ({"layers": 2}, "layers 0..1"),
        ({"heads": [4]}, "heads 0..3"),
        ({"heads": "all"}, "heads is"),
    ],
)
def test_attention_that_cannot_be_measured_is_refused_by_what_is_wrong(make_lm: Any, given: Any, said: str) -> None:
    arguments = {"prompt": PROMPT, "texts": TEXTS, "span": "cde", **given}
    with pytest.raises(ArgumentError, match="(?s)" + said.replace("[", r"\[").replace(".", r"\.")):
        measure_attention(make_lm(), **arguments)


def test_layers_that_tell_no_attention_are_refused_by_name(make_lm: Any) -> None:
    with pytest.raises(ModelError, match="attention"):
        measure_attention(make_lm("mamba"), PROMPT, TEXTS, "cde")
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn .*what it attends to"):
        measure_attention(make_lm("minimax"), PROMPT, TEXTS, "cde")
