"""Biased attention against plain passes with four-dimensional masks, on both caches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from test_edited import walk
from tiny import tiny

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models.edits import Add, BiasAttention, Emphasise, Span
from feynkac.models.language.caches.opening import open_contexts
from feynkac.models.language.caches.plain import PlainContexts
from feynkac.models.language.caches.shared import SharedContexts
from feynkac.models.language.caches.twin import Twins
from feynkac.models.language.editing import Anatomy
from feynkac.models.language.editing.edits import Edits
from feynkac.models.language.editing.spans import Anywhere

PROMPTS = [[5, 9, 3, 7, 1], [4, 8, 9], [5, 9, 3, 7, 1], [8, 2, 6, 11, 30]]
"""`Anywhere` marks their second token."""


class Marked:
    """The spans of PROMPTS: the second and the last token of each."""

    def find(self, span: Span) -> torch.Tensor:
        table = torch.zeros(4, 5, dtype=torch.bool)
        for row, prompt in zip(table, PROMPTS, strict=True):
            row[[1, len(prompt) - 1]] = True
        return table


def with_mask(model: Any, text: list[int], bias: torch.Tensor) -> torch.Tensor:
    """(V,) logits of a plain pass whose mask (heads, Q, K) is causal plus `bias` of that shape."""
    n = len(text)
    causal = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([text]), attention_mask=(causal + bias)[None], use_cache=False)
    return out.logits[0, -1].float()


@pytest.mark.parametrize("heads", [None, [0, 3]])
@pytest.mark.parametrize("queries", ["all", "response"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_emphasis_is_the_same_bias_in_a_plain_pass(kind: str, queries: Any, heads: Any) -> None:
    model = tiny(kind)
    edits = Edits([emphasis(heads, queries)], Anatomy(model))
    contexts = open_contexts(Twins(model), PROMPTS, 8, [edits] * 4, Marked())
    assert isinstance(contexts, SharedContexts)

    def wanted(text: list[int], g: int) -> torch.Tensor:
        start = len(PROMPTS[g])
        bias = torch.zeros(4, len(text), len(text))
        outside = torch.tensor([i < start and i not in (0, 1, start - 1) for i in range(len(text))])
        for head in range(4) if heads is None else heads:
            bias[head] = outside * math.log(0.1)
        if queries == "response":
            bias[:, : start - 1] = 0.0
        return with_mask(model, text, bias)

    walk(contexts, PROMPTS, 1, wanted)


def emphasis(heads: Any = None, queries: Any = "all", alpha: float = 0.1, **more: Any) -> Emphasise:
    return Emphasise("anything", alpha=alpha, heads=heads, queries=queries, **more)


def test_the_models_own_cache_takes_the_bias_too() -> None:
    model = tiny("llama")
    edits = Edits([emphasis()], Anatomy(model))
    contexts = PlainContexts(Twins(model), PROMPTS, _laid(edits))

    def wanted(text: list[int], g: int) -> torch.Tensor:
        start = len(PROMPTS[g])
        outside = torch.tensor([i < start and i not in (0, 1, start - 1) for i in range(len(text))])
        return with_mask(model, text, (outside * math.log(0.1)).expand(4, len(text), -1))

    walk(contexts, PROMPTS, 2, wanted)


@pytest.mark.parametrize("queries", ["all", "response"])
@pytest.mark.parametrize(("kind", "attention"), [("mistral", "sdpa"), ("mistral", "eager"), ("gemma2", "eager")])
def test_a_window_that_is_full_has_lost_what_was_emphasised(kind: str, attention: str, queries: Any) -> None:
    """Beyond it, layer by layer, the bias of what is still seen counts: as in a pass over the whole text."""
    model = tiny(kind, sliding_window=6)
    model.set_attn_implementation(attention)
    edits = Edits([emphasis(queries=queries)], Anatomy(model))
    contexts = open_contexts(Twins(model), PROMPTS, 30, [edits] * 4, Marked())
    assert isinstance(contexts, PlainContexts)
    more_tokens = [list(range(3, 9))] * 4
    contexts.start()
    logits = contexts.append(np.arange(4), more_tokens, every=True)
    texts = [[*prompt, *some] for prompt, some in zip(PROMPTS, more_tokens, strict=True)]
    wanted = torch.cat([row[-6:] for row in pass_whole(model, edits, texts)])
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)
    plain = torch.cat([row[-6:] for row in pass_whole(model, None, texts)])
    assert (plain - wanted).abs().max() > 1e-3  # else it would prove nothing


def pass_whole(model: Any, edits: Edits | None, texts: list[list[int]]) -> list[torch.Tensor]:
    """(T, V) logits of each text, by passes over whole texts, without a cache."""
    found = []
    for g, text in enumerate(texts):
        positions = torch.arange(len(text))[None]
        with Twins(model).borrow() as twin, _laid(edits).on(twin, np.array([g]), positions), torch.inference_mode():
            found.append(twin.model(input_ids=torch.tensor([text]), use_cache=False).logits[0].float())
    return found


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_attention_is_biased_alike_inside_of_autocast(kind: str) -> None:
    """Both caches as the full pass, to a part of what the bias changes: bfloat16 rounds."""
    model = tiny(kind)
    edits = Edits([emphasis()], Anatomy(model))
    texts = [[*prompt, token] for prompt, token in zip(PROMPTS, [5, 6, 7, 8], strict=True)]
    with torch.autocast("cpu", torch.bfloat16):
        shared = open_contexts(Twins(model), PROMPTS, 8, [edits] * 4, Marked())
        assert isinstance(shared, SharedContexts)
        own = PlainContexts(Twins(model), PROMPTS, _laid(edits))
        wanted, plain = (torch.stack([row[-1] for row in pass_whole(model, kind, texts)]) for kind in (edits, None))
        for contexts in (shared, own):
            contexts.start()
            logits = contexts.extend(np.arange(4), np.array([5, 6, 7, 8]))
            assert (logits - wanted).abs().max() < 0.2 * (wanted - plain).abs().max()


def _laid(edits: Edits | None) -> Any:
    from feynkac.models.language.editing.edits import Laid

    return Laid([edits] * 4, [len(prompt) for prompt in PROMPTS], Marked())


def test_layers_and_heads_are_chosen_one_by_one_and_biases_add_up() -> None:
    model = tiny("llama")
    both = [emphasis({0: [1]}), emphasis({1: [2, 3]}), emphasis({0: [1]}, alpha=0.5)]
    contexts = open_contexts(Twins(model), PROMPTS, 8, [Edits(both, Anatomy(model))] * 4, Marked())

    def wanted(text: list[int], g: int) -> torch.Tensor:
        start, n = len(PROMPTS[g]), len(text)
        outside = torch.tensor([i < start and i not in (0, 1, start - 1) for i in range(n)]).float()
        causal = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)
        handles = []
        for layer, heads, size in ((0, [1], math.log(0.1) + math.log(0.5)), (1, [2, 3], math.log(0.1))):
            mask = torch.stack([causal + outside * size * (head in heads) for head in range(4)])[None]

            def hook(module: Any, args: Any, kwargs: Any, mask: Any = mask) -> Any:
                return args, {**kwargs, "attention_mask": mask}

            attention = model.model.layers[layer].self_attn
            handles.append(attention.register_forward_pre_hook(hook, with_kwargs=True))
        try:
            with torch.inference_mode():
                return model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].float()
        finally:
            for handle in handles:
                handle.remove()

    walk(contexts, PROMPTS, 3, wanted)


def test_rows_of_one_batch_are_biased_by_their_own_prompts() -> None:
    model = tiny("qwen3")
    one = Edits([emphasis(), Add(3.0 * torch.ones(32).cumsum(0).sin(), layer=0)], Anatomy(model))
    other = Edits([emphasis(alpha=5.0)], Anatomy(model))
    mixed = open_contexts(Twins(model), PROMPTS, 8, [one, None, other, other], Marked())
    logits = [mixed.start(), mixed.extend(torch.arange(4).numpy(), torch.tensor([7, 7, 8, 9]).numpy())]
    for g, edits in enumerate((one, None, other, other)):
        alone = open_contexts(Twins(model), PROMPTS, 8, [edits] * 4, Marked())
        torch.testing.assert_close(alone.start()[g], logits[0][g], atol=1e-5, rtol=1e-5)
        after = alone.extend(torch.arange(4).numpy(), torch.tensor([7, 7, 8, 9]).numpy())
        torch.testing.assert_close(after[g], logits[1][g], atol=1e-5, rtol=1e-5)


def test_a_bias_for_each_token_of_one_prompt() -> None:
    model, numbers = tiny("llama"), torch.tensor([0.0, 1.0, -2.0, 0.5, 3.0])
    edits = Edits([BiasAttention(numbers)], Anatomy(model))
    contexts = open_contexts(Twins(model), [PROMPTS[0]], 8, [edits], Anywhere(1, torch.device("cpu")))

    def wanted(text: list[int], g: int) -> torch.Tensor:
        return with_mask(model, text, torch.nn.functional.pad(numbers, (0, len(text) - 5)).expand(4, len(text), -1))

    walk(contexts, [PROMPTS[0]], 4, wanted)


def test_alpha_one_is_the_model_itself_bit_for_bit(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")
    plain = fk.steer(lm.prompt("ab", max_tokens=6), particles=8, seed=1)
    same = fk.steer(lm.edited(Emphasise("b", alpha=1.0)).prompt("ab", max_tokens=6), particles=8, seed=1)
    assert same.texts == plain.texts
    assert (lm.edited(Emphasise("b", alpha=0.01)).score("aab", ["a"]) - lm.score("aab", ["a"]))[0] != 0.0


def test_an_attention_without_softmax_scores_is_refused() -> None:
    with pytest.raises(ModelError, match="has no attention that could be found"):
        Edits([emphasis()], Anatomy(tiny("lfm2")))


def errors(lm: Any) -> dict[str, Any]:
    return {
        "has no head 9: this model has heads 0..3": lambda: lm.edited(Emphasise("a", heads=[9])),
        "this model has layers 0..1": lambda: lm.edited(Emphasise("a", layer=7)),
        "alpha is 0.0": lambda: lm.edited(Emphasise("a", alpha=0.0)),
        "give texts that occur in the prompt": lambda: lm.edited(Emphasise([])),
        "does not hold 'bb'": lambda: lm.edited(Emphasise("bb")).prompt("ab"),
        "queries is 'some'": lambda: lm.edited(Emphasise("a", queries="some")),  # pyright: ignore[reportArgumentType]
        "made for prompts of 3 tokens, and this one has 2": lambda: lm.edited(BiasAttention(torch.ones(3))).prompt(
            "ab"
        ),
        "has rows for 3 heads; this model has 4": lambda: lm.edited(BiasAttention(torch.ones(3, 2))),
        "bias is 'abc'": lambda: lm.edited(BiasAttention("abc")),  # pyright: ignore[reportArgumentType]
        "holds NaN or infinity": lambda: lm.edited(BiasAttention(torch.tensor([0.0, float("nan")]))),
    }


@pytest.mark.parametrize("wanted", list(errors(None)))
def test_an_emphasis_that_does_not_fit_is_refused_where_it_is_made(tiny_lm: Any, wanted: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        errors(tiny_lm("a", "b"))[wanted]()
    assert wanted in str(caught.value)
