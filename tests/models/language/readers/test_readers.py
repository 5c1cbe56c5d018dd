"""Prompts that read along: what they cost, and which texts they cannot read."""

from __future__ import annotations

import math

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError, PotentialError
from feynkac.models.language.lm import CausalLM
from feynkac.models.language.proposals import Masked


def count_passes(monkeypatch, lm) -> list[int]:
    """The tokens of each pass of the contexts that `lm` opens from now on, starts included."""
    passes, open_contexts = [], CausalLM.open

    def watch(self, prompts, max_new):
        contexts = open_contexts(self, prompts, max_new)
        for name in ("start", "extend", "append") if self is lm else ():
            monkeypatch.setattr(contexts, name, watch_pass(contexts, getattr(contexts, name)))
        return contexts

    def watch_pass(contexts, method):
        def forward(*args, **options):
            before = contexts.forwarded
            logits = method(*args, **options)
            passes.extend([contexts.forwarded - before] * (contexts.forwarded > before))
            return logits

        return forward

    monkeypatch.setattr(CausalLM, "open", watch)
    return passes


@pytest.mark.parametrize("proposal", [None, Masked()])
def test_each_distinct_text_is_read_once_and_counted(tiny_lm, proposal) -> None:
    """As many tokens as the steered prompt forwards, but for the length of the prompts."""
    lm, other = tiny_lm("a", "b", seed=3), tiny_lm("a", "b", seed=8)
    task = lm.prompt("a", max_tokens=5, proposal=proposal)
    options = {"particles": 64, "seed": 0, "ess_threshold": 0.0}
    alone = fk.steer(task, Silent(), **options)
    read = fk.steer(task, Silent(other.prompt("bbb"), other.prompt("bbb")), Silent(other.prompt("bbb")), **options)
    assert read.texts == alone.texts
    assert read.forwarded_tokens == 2 * alone.forwarded_tokens + 2
    assert fk.steer(task, fk.expert(lm.prompt("bbb")), **options).forwarded_tokens > alone.forwarded_tokens


class Silent:
    """Reads along, and neither weighs nor guides."""

    name = "silent"

    def __init__(self, *prompts) -> None:
        self.scorers = tuple(prompt.make_scorer() for prompt in prompts)

    def level(self, t, state, rows):
        return np.zeros(len(rows))

    def final(self, state, rows):
        return np.zeros(len(rows))

    def guide(self, frontier):
        return 0.0 * frontier.logits


def test_all_experts_of_one_model_read_along_in_one_pass(tiny_lm, monkeypatch) -> None:
    lm, other = tiny_lm("a", "b", seed=3), tiny_lm("a", "b", seed=8)
    passes = count_passes(monkeypatch, other)
    batch = [(lm.prompt(p, max_tokens=4), fk.expert(other.prompt(q)) * fk.expert(other.prompt("ab"), -0.5))
             for p, q in (("a", "b"), ("b", "a"), ("ab", "bb"))]  # fmt: skip
    fk.steer(batch, particles=8, seed=0)
    assert len([n for n in passes if n]) <= 4  # the start, and one for each token but the last


def test_the_samples_of_best_of_n_are_read_as_a_whole(tiny_lm, monkeypatch) -> None:
    lm, other = tiny_lm("a", "b", seed=3, eos=()), tiny_lm("a", "b", seed=8, eos=())
    passes = count_passes(monkeypatch, other)
    fk.steer(lm.prompt("a", max_tokens=6), fk.expert(other.prompt("bb")), particles=8, algorithm="best_of_n", seed=0)
    assert len(passes) == 2 and passes[0] == 2 and passes[1] <= 8 * 5


def test_algorithms_that_weigh_all_next_tokens_let_experts_read_along(tiny_lm) -> None:
    """With as many particles as there are texts, nothing is left to chance."""
    lm, other = tiny_lm("a", "b", seed=3), tiny_lm("a", "b", seed=8)
    problem = lm.prompt("a", max_tokens=2), fk.expert(other.prompt("bb"), 0.5) * fk.expert(lm.prompt("b"))
    listed, exact = (fk.steer(*problem, algorithm=by, particles=8, seed=0) for by in ("optimal", "exact"))
    assert listed.log_evidence == pytest.approx(exact.log_evidence, abs=1e-5)
    assert listed.posterior() == pytest.approx(exact.posterior(), abs=1e-5)


def test_texts_longer_than_one_pass_are_read_in_parts(tiny_lm) -> None:
    lm, other = tiny_lm("a", "b", seed=3), tiny_lm("a", "b", seed=8)
    task, expert = lm.prompt("a", max_tokens=90), fk.expert(other.prompt("bb"))
    walked, read = (fk.steer(task, expert, particles=8, seed=0, algorithm=by) for by in ("importance", "best_of_n"))
    assert math.isfinite(walked.log_evidence)
    score = [other.score(other.prompt("bb", max_tokens=91), [text])[0] for text in read.texts]
    np.testing.assert_allclose(read.log_weights + math.log(8), score, rtol=1e-5, atol=1e-4)


def test_a_model_of_another_vocabulary_is_no_expert(tiny_lm) -> None:
    lm = tiny_lm("a", "b")
    for other in (tiny_lm("a", "b", "e"), tiny_lm("b", "a")):
        for algorithm in ("smc", "best_of_n", "exact"):
            with pytest.raises(ArgumentError, match=r"another vocabulary .* fk\.reward"):
                fk.steer(lm.prompt("a", max_tokens=2), fk.expert(other.prompt("a")), algorithm=algorithm, seed=0)


def test_an_expert_whose_window_is_too_small_is_refused(tiny_lm) -> None:
    lm = tiny_lm("a", "b")
    expert = fk.expert(lm.prompt("a" * 505, max_tokens=2))
    fk.steer(lm.prompt("a", max_tokens=7), expert, particles=2, seed=0)
    for algorithm in ("smc", "best_of_n"):
        with pytest.raises(ModelError, match="505 tokens and the texts up to 8, but its model's window holds 512"):
            fk.steer(lm.prompt("a", max_tokens=8), expert, particles=2, algorithm=algorithm, seed=0)


def test_an_expert_of_anything_but_a_prompts_texts_is_refused(tiny_lm) -> None:
    lm = tiny_lm("a", "b")

    @fk.program
    def write(p, lm):
        return p.sample(lm.context("a").gen(max_tokens=2))

    with pytest.raises(PotentialError, match=r"an expert reads those of lm\.prompt"):
        fk.steer(write(lm), fk.expert(lm.prompt("b")), particles=2, seed=0)


def test_models_of_one_tokenizer_may_be_padded_differently(tiny_lm) -> None:
    """An expert with more outputs than the steered model, or fewer: none of what is beyond has a text."""
    small = tiny_lm("a", "b", seed=3)
    large = CausalLM(tiny_lm("a", "b", "c", "d", seed=8).model, small.tokenizer, eos=[0])
    assert (small.n_logits, large.n_logits) == (3, 5)
    for lm, other in ((small, large), (large, small)):
        task = lm.prompt("a", max_tokens=2)
        exact = fk.steer(task, fk.expert(other.prompt("b")), algorithm="exact")
        results = fk.steer([task] * 200, fk.expert(other.prompt("b")), particles=4, seed=1, on_death="return")
        ratio = np.exp([result.log_evidence for result in results]) / math.exp(exact.log_evidence)
        assert abs(ratio.mean() - 1.0) < 4.0 * ratio.std(ddof=1) / math.sqrt(200) + 2e-5  # false alarm 6e-5
