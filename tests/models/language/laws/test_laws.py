"""Sampling laws: those of transformers' `generate`, in its order, and what is refused."""

from __future__ import annotations

import functools
import math
import pickle

import numpy as np
import pytest
import torch
import transformers
from tiny import tiny

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models.language.laws import PLAIN, Law, read_law, shape
from feynkac.models.language.laws.nucleus import FIRST, TIMES, keep_nucleus


def prefer_even(input_ids, scores):
    scores[:, ::2] += 1.0  # in place, as users write it
    return scores


LAWS = [
    dict(top_k=5),
    dict(top_k=1),
    dict(top_k=1000),
    dict(top_p=0.5),
    dict(top_p=0.0),
    dict(min_p=0.3),
    dict(min_p=1.0),
    dict(repetition_penalty=1.8),
    dict(repetition_penalty=0.5, temperature=0.7),
    dict(no_repeat_ngram_size=1),
    dict(no_repeat_ngram_size=2, top_k=3),
    dict(no_repeat_ngram_size=40),
    dict(logits_processor=[prefer_even]),
    dict(logits_processor=transformers.LogitsProcessorList([transformers.SuppressTokensLogitsProcessor([3, 4])])),
    dict(temperature=0.3, top_k=20, top_p=0.8, min_p=0.1, repetition_penalty=1.3, no_repeat_ngram_size=2,
         logits_processor=[prefer_even]),
    dict(temperature=3.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, no_repeat_ngram_size=0),
]  # fmt: skip
NONE = dict.fromkeys(
    ("top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size", "logits_processor"), None
)


def make_law(**given) -> Law:
    return read_law(**{"temperature": 1.0, **NONE, **given})


@functools.cache
def model():
    return tiny("llama", attn_implementation="eager")


@pytest.mark.parametrize("given", LAWS)
def test_a_law_is_that_of_generate(given) -> None:
    """The scores that `generate` draws from, at each of its steps, are the logits of the law over the temperature."""
    prompt = torch.tensor([[5, 9, 5, 9, 7, 5], [8, 8, 8, 8, 8, 8]])
    torch.manual_seed(1)
    # Without top_k= `generate` takes its own default, 50.
    made = model().generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=True, max_new_tokens=3, pad_token_id=0,
        eos_token_id=None, output_scores=True, return_dict_in_generate=True, **{"top_k": 0, **given},
    )  # fmt: skip
    law = make_law(**given)
    for t, scores in enumerate(made.scores):
        ids = made.sequences[:, : prompt.shape[1] + t]
        with torch.no_grad():
            logits = model()(ids).logits[:, -1].float()
        kept = logits.clone()
        shaped = shape(logits, [law, law], lambda u, ids=ids: ids[u].tolist())
        assert torch.equal(logits, kept)
        assert torch.equal(shaped.isneginf(), scores.isneginf())
        torch.testing.assert_close((shaped / law.temperature).softmax(1), scores.softmax(1), rtol=1e-4, atol=1e-6)


def spread(kind: str, n: int, size: int) -> torch.Tensor:
    """(n, size) logits of one kind."""
    logits = torch.randn(n, size, generator=torch.Generator().manual_seed(size))
    return {
        "peaked": 5.0 * logits,
        "flat": 0.01 * logits,
        "tied": (4.0 * logits).round() / 2.0,
        "all equal": torch.zeros(n, size),
        "masked": torch.where(logits > 1.0, 3.0 * logits, -torch.inf),
        "mixed": torch.cat([8.0 * logits[: n // 2], 0.01 * logits[n // 2 :]]),
    }[kind]


@pytest.mark.parametrize("kind", ["peaked", "flat", "tied", "all equal", "masked", "mixed"])
@pytest.mark.parametrize("size", [3, FIRST, 700, FIRST * TIMES + 5, 9000])
def test_a_nucleus_found_by_partial_selection_is_that_of_a_full_sort(kind, size) -> None:
    """The same scores are left: which of equal ones is up to the sort there, and up to the ids here."""
    scores = spread(kind, 6, size)
    for top_p in (0.0, 0.05, 0.5, 0.9, 0.999):
        ours, theirs = keep_nucleus(scores, top_p), transformers.TopPLogitsWarper(top_p)(None, scores)
        assert torch.equal(torch.where(ours.isneginf(), scores, ours), scores)
        for row, one, other in zip(scores, ours, theirs, strict=True):
            counts = sorted([int(one.isfinite().sum()), int(other.isfinite().sum())])
            order = row.sort(descending=True).values
            assert torch.equal(one.sort(descending=True).values[: counts[0]], order[: counts[0]])
            mass = order.double().softmax(0)
            # They sum in float32: a token on the boundary may fall on its other side.
            assert np.abs((mass.cumsum(0) - mass)[counts[0] : counts[1]].numpy() - top_p).max(initial=0.0) < 1e-5


def test_of_tokens_as_likely_as_the_last_those_with_the_larger_ids_are_in_the_nucleus() -> None:
    scores = torch.zeros(2, 3000)
    scores[1, 7] = 5.0
    first, second = keep_nucleus(scores, 0.25)
    assert first.isfinite().nonzero()[:, 0].tolist() == list(range(2250, 3000))
    n = math.ceil(0.25 * (2999 + math.exp(5.0)) - math.exp(5.0))
    assert second.isfinite().nonzero()[:, 0].tolist() == [7, *range(3000 - n, 3000)]


def test_a_nucleus_has_the_mass_and_no_token_less() -> None:
    kept = keep_nucleus(torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log(), 0.5).isfinite()
    assert kept.tolist() == [[False, False, True, True]]
    assert keep_nucleus(torch.zeros(1, 4), 0.5).isfinite().tolist() == [[False, False, True, True]]
    assert keep_nucleus(torch.tensor([[0.0, -torch.inf]]), 0.9).isfinite().tolist() == [[True, False]]


def test_laws_and_lengths_may_differ_from_row_to_row() -> None:
    logits = torch.randn(5, 20, generator=torch.Generator().manual_seed(0))
    laws = [
        make_law(top_k=3), PLAIN, make_law(repetition_penalty=2.0), make_law(repetition_penalty=2.0),
        make_law(top_k=3, temperature=2.0),
    ]  # fmt: skip
    histories = [[], [], [1, 2], [1, 2, 3, 4], []]
    alone = [shape(logits[u : u + 1], laws[u : u + 1], lambda _, u=u: histories[u]) for u in range(5)]
    assert torch.equal(shape(logits, laws, histories.__getitem__), torch.cat(alone))
    assert shape(logits, [PLAIN] * 5, histories.__getitem__) is logits


def test_one_batch_has_prompts_of_different_laws(tiny_lm) -> None:
    lm = tiny_lm("a", "b", seed=3)
    laws = [dict(top_k=1), dict(no_repeat_ngram_size=1), dict(), dict(top_p=0.5, temperature=0.7)]
    tasks = [lm.prompt("a", max_tokens=3, **law) for law in laws]
    both = fk.steer(tasks, fk.regex("[ab]*"), particles=64, seed=0)
    for task, result in zip(tasks, both, strict=True):
        known = fk.steer(task, fk.regex("[ab]*"), algorithm="exact")
        assert set(result.posterior()) <= set(known.posterior())
        assert result.log_evidence == pytest.approx(known.log_evidence, abs=0.2)
    assert set(both[1].texts) == {"", "b"}  # no token comes twice, "a" of the prompt among them


def test_top_k_of_one_writes_what_generate_writes(tiny_lm) -> None:
    lm = tiny_lm("a", "b", "e", seed=1)
    task = lm.prompt("ab", max_tokens=6, top_k=1, repetition_penalty=1.1)
    ids = torch.tensor([task.prompts[0].tokens])
    made = lm.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=1, repetition_penalty=1.1, max_new_tokens=6,
        eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    result = fk.steer(task, particles=4, seed=0)
    assert set(result.texts) == {lm.vocabulary.text([i for i in made[0, 2:].tolist() if i])} != {""}
    assert result.log_evidence == pytest.approx(0.0, abs=1e-6)


def test_a_law_that_leaves_no_token_is_named(tiny_lm) -> None:
    lm = tiny_lm("a", "b", eos=())
    with pytest.raises(ModelError, match="no_repeat_ngram_size=1 leaves no token behind a text of 3 tokens"):
        fk.steer(lm.prompt("a", max_tokens=5, no_repeat_ngram_size=1), particles=8, seed=0)

    def forbid(input_ids, scores):
        return scores - torch.inf

    with pytest.raises(ModelError, match="'forbid' in logits_processor leaves no token behind a text of 1 token"):
        fk.steer(lm.prompt("a", max_tokens=5, logits_processor=[forbid]), particles=8, seed=0)


def test_a_death_between_a_constraint_and_a_law_names_both(tiny_lm) -> None:
    task = tiny_lm("a", "b", "e", seed=3).prompt("a", max_tokens=2, top_k=1)
    said = "no token was left that every constraint allows and the prompt's law .top_k and the like. leaves"
    with pytest.raises(fk.AllParticlesDied, match=said):
        fk.steer(task, fk.regex("a+"), particles=4, seed=0)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda scores: None, "returned NoneType"),
        (lambda scores: scores[:, :1], r"returned shape \(1, 1\)"),
        (lambda scores: scores * torch.nan, "makes a logit nan"),
        (lambda scores: scores + torch.inf, "makes a logit inf"),
        (lambda scores: scores.no_such_thing, "raised AttributeError"),
    ],
)
def test_a_processor_that_gives_no_scores_is_named(tiny_lm, made, said) -> None:
    def mine(input_ids, scores):
        return made(scores)

    with pytest.raises(ModelError, match=f"'mine'.*{said}"):
        fk.steer(tiny_lm("a", "b").prompt("a", max_tokens=2, logits_processor=[mine]), particles=2, seed=0)


def test_logits_that_are_no_law_are_blamed_on_the_model() -> None:
    law = make_law(repetition_penalty=2.0, top_k=2, top_p=0.5, min_p=0.1)
    for bad in (torch.nan, torch.inf):
        assert not torch.isfinite(shape(torch.full((1, 4), bad), [law], lambda u: [1])).any()


class Counts:
    """It forgets nothing: each call finds the first token likelier."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, input_ids, scores):
        self.calls += 1
        scores[:, 0] += self.calls
        return scores


class Remembers:
    """It keeps the tokens of the call before, as one with a cache of its own does."""

    def __init__(self) -> None:
        self.before = None

    def __call__(self, input_ids, scores):
        before, self.before = self.before, input_ids
        scores[:, 0] += before is not None and before.shape == input_ids.shape
        return scores


def by_place(input_ids, scores):
    return scores + torch.arange(len(scores))[:, None] * torch.eye(scores.shape[1])[0]


@pytest.mark.parametrize("make", [Counts, Remembers, lambda: by_place])
def test_a_processor_that_is_no_function_of_a_rows_tokens_is_refused(tiny_lm, make) -> None:
    with pytest.raises(ModelError, match="returned other scores when it was asked again about the same texts"):
        fk.steer(tiny_lm("a", "b").prompt("a", max_tokens=3, logits_processor=[make()]), particles=8, seed=0)


def test_a_processor_reads_the_prompt_and_all_tokens_behind_it(tiny_lm) -> None:
    seen = set()

    def look(input_ids, scores):
        seen.update(map(tuple, input_ids.tolist()))
        return scores

    lm = tiny_lm("a", "b", eos=())
    result = fk.steer(lm.prompt("ab", max_tokens=2, logits_processor=[look]), particles=64, seed=0)
    assert {ids for ids in seen if len(ids) == 2} == {(1, 2)}
    assert {ids[2] for ids in seen if len(ids) == 3} == {0, 1, 2} and max(map(len, seen)) == 3
    assert len(set(result.texts)) > 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(top_k=-1), "top_k is -1"),
        (dict(top_k=2.0), r"top_k is 2\.0; it must be an integer"),
        (dict(top_k=True), "top_k is True"),
        (dict(top_p=1.1), r"top_p is 1\.1; it must be a number of at least 0 and at most 1"),
        (dict(top_p=-0.1), "top_p is -0.1"),
        (dict(top_p="0.9"), "top_p is '0.9'"),
        (dict(min_p=float("nan")), "min_p is nan"),
        (dict(min_p=2), "min_p is 2"),
        (dict(repetition_penalty=0), "repetition_penalty is 0"),
        (dict(repetition_penalty=-1.0), "repetition_penalty is -1.0"),
        (dict(repetition_penalty=float("inf")), "repetition_penalty is inf"),
        (dict(no_repeat_ngram_size=-1), "no_repeat_ngram_size is -1"),
        (dict(no_repeat_ngram_size=0.5), "no_repeat_ngram_size is 0.5"),
        (dict(logits_processor=prefer_even), "give a list of functions"),
        (dict(logits_processor=[3]), r"logits_processor\[0\] is 3"),
        (dict(logits_processor=[prefer_even, transformers.TopKLogitsWarper]), r"logits_processor\[1\] is <class"),
        (dict(logits_processor=[lambda scores: scores]), r"does not take the two arguments \(input_ids, scores\)"),
        (dict(logits_processor=[transformers.NoRepeatNGramLogitsProcessor(2)], no_repeat_ngram_size=2), "say the same"),
        (dict(temperature=0), "temperature is 0"),
    ],
)
def test_what_is_no_law_is_refused_by_name(tiny_lm, given, said) -> None:
    with pytest.raises(ArgumentError, match=said):
        tiny_lm("a", "b").prompt("a", **given)


def test_a_prompt_of_some_law_can_be_pickled_after_a_run(tiny_lm) -> None:
    task = tiny_lm("a", "b").prompt(
        "a", max_tokens=2, top_k=2, top_p=0.9, min_p=0.1, repetition_penalty=1.2, logits_processor=[prefer_even]
    )
    fk.steer(task, particles=4, seed=0)
    assert pickle.loads(pickle.dumps(task)).prompts == task.prompts
