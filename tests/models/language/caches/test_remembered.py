"""Prompts that outlive a run: what they spare, that they change nothing, and when they go."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny
from tokenizers_of_kinds import byte_level, model_of, wrap
from walks import recompute

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models.edits import Add
from feynkac.models.language.caches.prefill import Prefill, Prefix
from feynkac.models.language.caches.shared import SharedContexts
from feynkac.models.language.caches.twin import Twins

SYSTEM = "You answer in one word, and you never say why. Be kind, be short, be exact."


@pytest.fixture
def lm() -> fk.CausalLM:
    return model_of(wrap(byte_level()))


def forwarded(lm: fk.CausalLM, text: str) -> int:
    """Tokens that the prompt takes in a run, found by its logits, which must be those of the whole text."""
    prompts = lm.prompt(text, max_tokens=2).prompts
    contexts = lm.open_prompts(prompts, 2)
    torch.testing.assert_close(
        contexts.start(), recompute(lm.model, [list(one.tokens) for one in prompts]), atol=1e-5, rtol=1e-5
    )
    return contexts.forwarded


def test_a_remembered_prompt_costs_nothing(lm: fk.CausalLM) -> None:
    before = forwarded(lm, SYSTEM)
    kept = lm.remember(SYSTEM)
    assert kept.tokens == before > 16 and kept.nbytes > 0 and kept.is_kept
    assert forwarded(lm, SYSTEM) == 0
    assert forwarded(lm, SYSTEM + " What is red?") < before / 2
    assert forwarded(lm, SYSTEM[: len(SYSTEM) // 2]) <= 2  # the law behind its last token is forwarded again
    assert forwarded(lm, "Something else") > 0
    kept.forget()
    assert not kept.is_kept and "dropped" in repr(kept)
    assert forwarded(lm, SYSTEM) == before


def test_a_run_behind_a_remembered_prompt_is_the_same_run(lm: fk.CausalLM) -> None:
    task = [lm.prompt(SYSTEM + end, max_tokens=6) for end in ("", " And then?")]
    before = fk.steer(task, fk.regex("[a-z ]*"), particles=8, seed=3)
    with lm.remember(lm.prompt(SYSTEM)):
        after = fk.steer(task, fk.regex("[a-z ]*"), particles=8, seed=3)
    for old, new in zip(before, after, strict=True):
        assert old.samples == new.samples
        assert new.log_evidence == pytest.approx(old.log_evidence, abs=1e-5)
    assert sum(r.forwarded_tokens or 0 for r in after) < sum(r.forwarded_tokens or 0 for r in before)


def test_weights_changed_in_place_are_seen(lm: fk.CausalLM) -> None:
    kept, before = lm.remember(SYSTEM), forwarded(lm, SYSTEM + "!")
    with torch.no_grad():
        next(lm.model.parameters()).mul_(1.5)
    assert not kept.is_kept
    assert forwarded(lm, SYSTEM + "!") > before  # and the logits are those of the new weights


def test_a_prompt_read_while_weights_change_is_not_remembered(lm: fk.CausalLM, monkeypatch) -> None:
    lm.remember("first, for the self-check").forget()
    read = Prefill.run

    def train_meanwhile(self: Prefill) -> list[Prefix]:  # as another thread might
        left = read(self)
        with torch.no_grad():
            next(lm.model.parameters()).mul_(1.5)
        return left

    monkeypatch.setattr(Prefill, "run", train_meanwhile)
    kept = lm.remember(SYSTEM)
    monkeypatch.undo()
    assert not kept.is_kept
    assert forwarded(lm, SYSTEM) == kept.tokens


def test_hooks_put_on_later_are_seen(lm: fk.CausalLM) -> None:
    kept = lm.remember(SYSTEM)
    block: Any = lm.model.get_submodule("model.layers.0")
    block.register_forward_hook(lambda module, args, out: (out[0] * 2, *out[1:]) if isinstance(out, tuple) else out * 2)
    assert not kept.is_kept
    assert forwarded(lm, SYSTEM) > 16
    assert not kept.is_kept


def test_lowered_precision_is_another_prompt(lm: fk.CausalLM) -> None:
    lm.remember(SYSTEM)
    with torch.autocast("cpu", torch.bfloat16):
        contexts = lm.open_prompts(lm.prompt(SYSTEM).prompts, 2)
        contexts.start()
    assert contexts.forwarded > 16


def test_edits_are_not_mistaken_for_their_model(lm: fk.CausalLM) -> None:
    width = lm.model.config.hidden_size
    edited = lm.edited(Add(torch.ones(width), layer=0))
    with lm.remember(SYSTEM):
        assert spent(edited, SYSTEM) > 16
        with edited.remember(edited.prompt(SYSTEM)):
            assert spent(edited, SYSTEM) == 0
            assert spent(edited, SYSTEM + " Now") > 16  # an edit may depend on where the prompt ends
            assert spent(lm, SYSTEM) == 0


def spent(lm: fk.CausalLM, text: str) -> int:
    contexts = lm.open_prompts(lm.prompt(text).prompts, 2)
    contexts.start()
    return contexts.forwarded


def test_edits_changed_in_place_are_seen(lm: fk.CausalLM) -> None:
    vector = torch.ones(lm.model.config.hidden_size)
    edited = lm.edited(Add(vector, layer=0))
    plain, kept = lm.remember(SYSTEM), edited.remember(SYSTEM)

    def read() -> torch.Tensor:
        return edited.open_prompts(edited.prompt(SYSTEM).prompts, 2).start()

    before = read()
    vector.mul_(-3.0)
    assert not kept.is_kept and plain.is_kept
    after = read()
    edited.forget()
    assert torch.equal(after, read()) and not torch.allclose(after, before)


def test_what_was_used_longest_ago_goes_first(lm: fk.CausalLM) -> None:
    first = lm.remember(SYSTEM)
    second = lm.remember(SYSTEM.upper(), most=1 << 30)
    assert forwarded(lm, SYSTEM) == 0
    third = lm.remember("x" + SYSTEM, most=first.nbytes + second.nbytes)
    assert (first.is_kept, second.is_kept, third.is_kept) == (True, False, True)
    lm.forget()
    assert not first.is_kept and not third.is_kept
    with pytest.raises(ArgumentError, match=r"tokens take .* MB to remember, more than .* most=bytes"):
        lm.remember(SYSTEM, most=10)


def test_remembering_twice_is_remembering_once(lm: fk.CausalLM) -> None:
    one, two = lm.remember(SYSTEM), lm.remember(SYSTEM)
    one.forget()
    assert not two.is_kept


def test_what_cannot_be_remembered_is_refused(lm: fk.CausalLM) -> None:
    other = model_of(wrap(byte_level()))
    for wrong in (other.prompt("a"), 3, None, lm.prompt("a").join([lm.prompt("b")])):
        with pytest.raises(ArgumentError, match=r"one text or prompt|a prompt of this model"):
            lm.remember(wrong)  # pyright: ignore[reportArgumentType]
    bloom = fk.CausalLM(tiny("bloom"), lm.tokenizer)
    with pytest.raises(ModelError, match="keeps its own cache, which cannot be remembered"):
        bloom.remember(bloom.prompt(tokens=[3, 4, 5]))


def test_a_model_is_sent_without_what_it_remembers(lm: fk.CausalLM) -> None:
    lm.remember(SYSTEM)
    copy = pickle.loads(pickle.dumps(lm))
    assert spent(copy, SYSTEM) > 16 and spent(lm, SYSTEM) == 0


def test_threads_may_remember_and_forget_while_others_run(lm: fk.CausalLM) -> None:
    wanted = fk.steer(lm.prompt(SYSTEM, max_tokens=5), particles=4, seed=1).log_evidence
    stop, faults = threading.Event(), list[BaseException]()

    def churn() -> None:
        try:
            while not stop.is_set():
                with lm.remember(SYSTEM):
                    pass
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=churn)
    thread.start()
    found = [fk.steer(lm.prompt(SYSTEM, max_tokens=5), particles=4, seed=1).log_evidence for _ in range(5)]
    stop.set()
    thread.join()
    assert not faults and found == pytest.approx([wanted] * 5, abs=1e-5)


def test_what_several_prompts_begin_with_is_forwarded_once() -> None:
    model, rng = tiny("llama", max_position_embeddings=256), np.random.default_rng(0)
    begin = rng.integers(3, 60, 100).tolist()
    prompts = [[*begin, *rng.integers(3, 60, n).tolist()] for n in (1, 5, 5)] + [begin, begin[:80]]
    contexts = SharedContexts(Twins(model), prompts, 4)
    torch.testing.assert_close(contexts.start(), recompute(model, prompts), atol=1e-4, rtol=1e-4)
    assert contexts.forwarded == 80 + 21 + 25 + 25 + 20 + 1 == contexts.spent.sum()


def test_a_prompt_of_another_model_is_refused_as_such_and_shown_in_a_few_words(lm) -> None:
    other = model_of(wrap(byte_level())).prompt("A word about rain", max_tokens=3)
    with pytest.raises(ArgumentError) as caught:
        lm.remember(other)
    said = str(caught.value)
    assert "a prompt of this model; prompt('A word about rain', max_tokens=3) is one of CausalLM(" in said
    assert len(said) < 300
    assert repr(lm.prompt(tokens=[1, 2], max_tokens=3)) == "prompt(2 tokens, max_tokens=3)"
