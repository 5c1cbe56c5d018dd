"""What an ensemble reads, refuses and counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.models.edits import Add, ProjectOut
from feynkac.models.language.caches.shared import SharedContexts


@pytest.fixture(scope="module")
def lm(tiny_lm: Any) -> fk.CausalLM:
    return tiny_lm("a", "b", seed=2)


def test_what_is_no_list_of_single_prompts_is_refused(lm: Any, tiny_lm: Any) -> None:
    task = lm.prompt("a")
    for wrong, said in (
        (task, "give a list of prompts"),
        ("a", "give a list of prompts"),
        ([], "an empty list"),
        (["a"], r"prompts\[0\] is 'a'"),
        ([task, task.join([task])], r"prompts\[1\] is"),
        ([task.constrain([fk.regex("a")])], "steer the ensemble by them"),
        ([lm.prompt("a", repetition_penalty=2.0)], "reads the tokens so far"),
        ([task, tiny_lm("b", "a").prompt("a")], "make both models of bytes"),
    ):
        with pytest.raises(fk.ArgumentError, match=said):
            fk.ensemble(wrong)


def test_weights_that_cannot_be_are_refused(lm: Any) -> None:
    both = [lm.prompt("a"), lm.prompt("b")]
    for weights in ([1.0], [1.0, 0.0], [1.0, float("nan")], [1.0, True], ["a", "b"], 3):
        with pytest.raises(fk.ArgumentError, match="give 2 finite numbers other than 0"):
            fk.ensemble(both, weights)
    with pytest.raises(fk.ArgumentError, match="give 2 positive numbers"):
        fk.ensemble(both, [1.0, -1.0], kind="mixture")
    with pytest.raises(fk.ArgumentError, match="kind is 'sum'"):
        fk.ensemble(both, kind="sum")  # pyright: ignore[reportArgumentType]
    with pytest.raises(fk.ArgumentError, match="plausible is 2"):
        fk.ensemble(both, plausible=2)


def test_laws_that_leave_no_token_together_are_named(lm: Any) -> None:
    task = fk.ensemble([lm.prompt("a", top_k=1), lm.prompt("a", temperature=0.9, top_p=1e-9)])
    assert len(fk.steer(task, particles=2, seed=0).samples) == 2  # the same token is left in both
    found = {}
    for text in ("a", "b", "ab", "ba", "bb"):
        first = fk.steer(lm.prompt(text, top_k=1, max_tokens=1), algorithm="exact").best
        found.setdefault(first, text)
    if len(found) > 1:
        one, two = list(found.values())[:2]
        with pytest.raises(fk.ModelError, match="leave no token that all of them allow"):
            fk.steer(fk.ensemble([lm.prompt(one, top_k=1), lm.prompt(two, top_k=1)]), particles=2, seed=0)


def test_prompts_too_long_for_a_members_window_are_refused(lm: Any) -> None:
    with pytest.raises(fk.ModelError, match="window"):
        fk.ensemble([lm.prompt("a", max_tokens=300), lm.prompt("a" * 400, max_tokens=10)])


def test_ensembles_count_what_goes_through_every_member(lm: Any) -> None:
    task = fk.ensemble([lm.prompt("a", max_tokens=1), lm.prompt("bb", max_tokens=1)])
    assert fk.steer(task, particles=4, seed=0).forwarded_tokens == 3


def test_several_ensembles_of_one_make_run_in_one_batch(lm: Any) -> None:
    model = fk.ensemble([lm.prompt("a"), lm.prompt("b")], [2.0, -1.0]).lm
    tasks = [model.prompt("a", max_tokens=2), model.prompt("b", max_tokens=2, repetition_penalty=1.5)]
    one, two = fk.steer(tasks, fk.regex("[ab]*"), particles=8, seed=0)
    assert len(one.samples) == len(two.samples) == 8


def test_what_the_first_prompt_says_ends_the_texts(lm: Any) -> None:
    task = fk.ensemble([lm.prompt("a", max_tokens=3, stop="b", at_limit="end"), lm.prompt("b", max_tokens=50)])
    assert (task.prompts[0].max_tokens, task.prompts[0].stop, task.prompts[0].at_limit) == (3, (b"b",), "end")


def test_a_model_and_edits_of_it_go_through_one_pass(lm: Any, monkeypatch: Any) -> None:
    """Each step of the ensemble is one pass for all three, and its law that of three models apart."""
    vector = torch.randn(16, generator=torch.Generator().manual_seed(1))
    models = [lm.edited(Add(3 * vector, layer=1)), lm, lm.edited(ProjectOut(vector, layer=0, scope="all"))]
    weights = [1.5, -1.0, 0.5]
    task = fk.ensemble([model.prompt("ab", max_tokens=4) for model in models], weights)
    ids = [lm.begin("ab")] * 2
    apart = [model.open(ids, 4) for model in models]  # the self-checks, too
    passes: list[int] = []
    forward = SharedContexts._forward
    monkeypatch.setattr(
        SharedContexts,
        "_forward",
        lambda self, plan, tokens: passes.append(len(plan.rows)) or forward(self, plan, tokens),
    )
    contexts = task.lm.open(ids, 4)

    def check(found: torch.Tensor, logits: list[torch.Tensor]) -> None:
        laws = [torch.log_softmax(each.double(), 1) for each in logits]
        wanted = torch.log_softmax(sum(w * law for w, law in zip(weights, laws, strict=True)), 1)
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)

    check(contexts.start(), [store.start() for store in apart])
    for parents, tokens in (([0, 1, 0], [2, -1, 1]), ([2, 0, 0, 1], [1, 0, 2, 2])):
        step = np.array(parents), np.array(tokens)
        passes.clear()
        found = contexts.extend(*step)
        assert passes == [3 * sum(token >= 0 for token in tokens)]
        check(found, [store.extend(*step) for store in apart])
