"""Soft prompts: what is found is what the edit does, by the gradient, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.models.edits import Add, fit_prefix, load_edits, save_edits
from feynkac.models.edits.fitting.passes import read_texts
from feynkac.models.edits.fitting.prefixes import _measure

PAIRS = [("zzab", "cd"), ("zzb", "d"), ("zzabc", "c")]


def nats(model: Any) -> float:
    scores = [model.score(prompt, [answer], end=False)[0] for prompt, answer in PAIRS]
    return -float(np.sum(scores)) / sum(len(answer) for _, answer in PAIRS)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_fitted_prefix_is_worth_what_it_says_and_more_than_none(make_lm: Any, kind: str, tmp_path: Any) -> None:
    lm = make_lm(kind)
    with torch.no_grad():
        lm.model.get_output_embeddings().weight.mul_(30.0)  # else the law of random weights is flat, whatever is read
    found = fit_prefix(lm, PAIRS, range(0, 2), steps=20, rate=0.2)
    edited = lm.edited(found.edit)
    assert nats(edited) == pytest.approx(found.nats, abs=1e-4)
    assert found.nats < nats(lm) - 0.5
    again = lm.edited(*load_edits(save_edits(found.edit, tmp_path / "prefix.safetensors")))
    assert nats(again) == pytest.approx(found.nats, abs=1e-4)
    base, soft = fk.steer([lm.prompt("zzab", max_tokens=2), edited.prompt("zzab", max_tokens=2)], particles=2, seed=0)
    assert base.log_evidence == soft.log_evidence == pytest.approx(0.0, abs=1e-5)


def test_the_gradient_of_a_prefix_is_that_of_finite_differences(make_lm: Any) -> None:
    lm, scope = make_lm(), range(1, 3)
    lm.model.double()
    texts = read_texts(lm, PAIRS)
    vectors = 0.1 * torch.randn(2, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, gradient = _measure(lm, texts, vectors.requires_grad_(), scope)
    toward = torch.randn(2, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    at = [(vectors + s * toward).detach().requires_grad_() for s in (2e-3, -2e-3)]
    ahead, behind = (_measure(lm, texts, some, scope)[0] for some in at)
    assert float((gradient * toward).sum()) == pytest.approx((ahead - behind) / 4e-3, rel=5e-3)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_a_first_step_is_a_share_of_an_embedding_as_it_is_read(make_lm: Any, kind: str) -> None:
    """Gemma scales its embeddings."""
    lm = make_lm(kind)
    with torch.no_grad():
        every = lm.model.get_input_embeddings()(torch.arange(lm.n_logits))
    found = fit_prefix(lm, PAIRS, range(0, 2), steps=1, rate=0.02).edit.direction
    assert float(found.abs().max()) == pytest.approx(0.02 * float(every.norm(dim=1).mean()) / 32**0.5, rel=1e-2)


def test_a_prefix_is_fitted_behind_the_edits_of_the_model(make_lm: Any) -> None:
    lm = make_lm()
    edited = lm.edited(Add(torch.arange(32.0).sin(), layer=0, scope="all"))
    found = fit_prefix(edited, PAIRS, range(0, 2), steps=5, rate=0.2)
    assert nats(edited.edited(found.edit)) == pytest.approx(found.nats, abs=1e-4)
    assert nats(lm.edited(found.edit)) != pytest.approx(found.nats, abs=1e-3)


def test_the_model_is_left_as_it_is_by_a_fit(make_lm: Any) -> None:
    lm = make_lm()
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    fit_prefix(lm, PAIRS, range(0, 2), steps=2)
    assert all(value.equal(before[name]) for name, value in lm.model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in lm.model.parameters())
    assert not any(module._forward_hooks for module in lm.model.modules())


@pytest.mark.parametrize(
    ("pairs", "scope", "said"),
    [
        (PAIRS, range(0, 4), r"the prompt of pairs\[1\] has 3 tokens"),
        (PAIRS, 2, "scope is 2; give the places"),
        (PAIRS, range(2, 2), "is empty"),
        ([], range(0, 1), "pairs is empty"),
        ("ab", range(0, 1), r"list of \(prompt, answer\)"),
        (["ab"], range(0, 1), r"list of \(prompt, answer\)"),
        ([("ab", "")], range(0, 1), r"the response of pairs\[0\]"),
    ],
)
def test_a_prefix_that_cannot_be_fitted_is_refused(make_lm: Any, pairs: Any, scope: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        fit_prefix(make_lm(), pairs, scope)
