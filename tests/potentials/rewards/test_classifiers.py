"""Classifiers and reward models of transformers as rewards: against the model asked by hand, one text at a time."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import pipeline

import feynkac as fk
from feynkac.base.errors import ArgumentError, PotentialError
from feynkac.base.problems import Problem, list_problems
from feynkac.potentials import as_potential, constraint, reward

TEXTS = ["ab", "a", "b a?", "", "aaab", "a"]
ROWS = np.arange(len(TEXTS))
LABELS = {0: "BAD", 1: "GOOD", 2: "SO SO"}


def ask(model: Any, tokenizer: Any, *texts: str, **options: Any) -> torch.Tensor:
    """(L,) float64 logits of one text, or pair of texts."""
    with torch.no_grad():
        return model(**tokenizer(*texts, return_tensors="pt", **options)).logits[0].double()


def test_the_log_probability_of_a_label_is_the_reward(population: Any, bert: Any, tokenizer: Any) -> None:
    model, words = bert(num_labels=3, id2label=LABELS), tokenizer()
    truth = [torch.log_softmax(ask(model, words, text), 0)[1].item() for text in TEXTS]
    pipe = pipeline("sentiment-analysis", model=model, tokenizer=words)
    for potential in (reward(pipe, label="GOOD"), reward(model, tokenizer=words, label="GOOD"), reward(pipe, label=1)):
        assert potential.final(population(TEXTS), ROWS) == pytest.approx(truth, abs=1e-6)
        assert potential.level(0, population(TEXTS), ROWS) == pytest.approx(truth, abs=1e-6)


def test_the_head_says_what_a_probability_is(population: Any, bert: Any, tokenizer: Any) -> None:
    words = tokenizer()
    heads = {
        (3, "single_label_classification", None): lambda logits: torch.log_softmax(logits, 0)[2],
        (3, "multi_label_classification", None): lambda logits: torch.nn.functional.logsigmoid(logits[2]),
        (3, None, "logit"): lambda logits: logits[2],
        (3, "regression", None): lambda logits: logits[2],
        (1, None, None): lambda logits: logits[0],
        (1, "regression", None): lambda logits: logits[0],
        (1, None, "log_prob"): lambda logits: torch.nn.functional.logsigmoid(logits[0]),
    }
    for (outputs, kind, score), read in heads.items():
        model = bert(num_labels=outputs, problem_type=kind)
        potential = reward(model, tokenizer=words, label=None if outputs == 1 else 2, score=score)
        truth = [read(ask(model, words, text)).item() for text in TEXTS]
        assert potential.final(population(TEXTS), ROWS) == pytest.approx(truth, abs=1e-6)


def test_a_pipeline_of_one_output_needs_no_call_of_reward(population: Any, bert: Any, tokenizer: Any) -> None:
    model, words = bert(num_labels=1), tokenizer()
    pipe = pipeline("text-classification", model=model, tokenizer=words)
    truth = [ask(model, words, text).item() for text in TEXTS]
    assert as_potential(pipe).final(population(TEXTS), ROWS) == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize("pad", [True, False])
def test_decoders_score_the_last_token_with_and_without_padding(
    population: Any, llama: Any, tokenizer: Any, pad: bool
) -> None:
    model, words = llama(0 if pad else None, num_labels=1), tokenizer(pad=pad, specials=False)
    truth = [ask(model, words, text or "[SEP]").item() for text in TEXTS]
    potential = reward(model, tokenizer=words)
    assert potential.final(population(TEXTS), ROWS) == pytest.approx(truth, abs=1e-5)


class OfPrompts:
    """Adds to a population of texts what each continues."""

    prompts = (Problem(0, "ab?"), Problem(1, "", ({"role": "user", "content": "b?"},)))

    def tell_problems(self, rows: Any) -> list[Problem]:
        return list_problems([i % 2 for i in rows], None, lambda g: self.prompts[g])


def test_reward_models_read_the_conversation_or_the_pair(
    population: Any, llama: Any, bert: Any, tokenizer: Any
) -> None:
    state = type("State", (OfPrompts, population), {})(["a", "a", "b"])
    model, words = llama(0, num_labels=1), tokenizer(template=True, specials=False)
    written = ["<u>ab?<a>a", "<u>b?<a>a", "<u>ab?<a>b"]
    truth = [ask(model, words, text).item() for text in written]
    chat = reward(model, tokenizer=words)
    assert chat.final(state, np.arange(3)) == pytest.approx(truth, abs=1e-5), "one output and a template: a chat"
    alone = [ask(model, words, text).item() for text in "aab"]
    assert reward(model, tokenizer=words, reads="text").final(state, np.arange(3)) == pytest.approx(alone, abs=1e-5)
    model, words = bert(num_labels=1), tokenizer()
    pairs = [ask(model, words, *pair).item() for pair in (("ab?", "a"), ("b?", "a"), ("ab?", "b"))]
    assert reward(model, tokenizer=words, reads="pair").final(state, np.arange(3)) == pytest.approx(pairs, abs=1e-6)


def test_a_problem_without_a_prompt_has_no_conversation(population: Any, llama: Any, tokenizer: Any) -> None:
    nothing = {"tell_problems": lambda self, rows: list_problems([0] * len(rows))}
    state = type("State", (population,), nothing)(["a"])
    model, words = llama(0, num_labels=1), tokenizer(template=True, specials=False)
    with pytest.raises(PotentialError, match="this problem has none; use reads='text'"):
        reward(model, tokenizer=words).final(state, np.arange(1))


def test_a_text_goes_through_the_model_once_a_run(population: Any, bert: Any, tokenizer: Any) -> None:
    model, words, seen = bert(num_labels=1), tokenizer(), []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.extend(kwargs["input_ids"]), with_kwargs=True)
    potential, state = reward(model, tokenizer=words), population(TEXTS)
    first = potential.level(0, state, ROWS)
    assert len(seen) == 5
    child = state.fork(list(range(len(TEXTS))))
    assert potential.final(child, ROWS).tolist() == first.tolist() and len(seen) == 5
    potential.final(population(TEXTS), ROWS)
    assert len(seen) == 10, "another run asks anew: the weights may have changed"


def test_nothing_of_the_user_is_written_to(population: Any, bert: Any, tokenizer: Any) -> None:
    import os

    model, words = bert(num_labels=1), tokenizer()
    pipe = pipeline("text-classification", model=model, tokenizer=words)
    before = copy.deepcopy((vars(pipe) | {"model": None, "tokenizer": None}, words._tokenizer.to_str(), model.config))
    environment = dict(os.environ)
    reward(pipe).final(population(TEXTS), ROWS)
    after = (vars(pipe) | {"model": None, "tokenizer": None}, words._tokenizer.to_str(), model.config)
    assert [str(each) for each in before] == [str(each) for each in after] and environment == dict(os.environ)
    assert not model.training


def test_a_text_is_cut_only_where_the_pipeline_says_so(population: Any, bert: Any, tokenizer: Any) -> None:
    model, words = bert(num_labels=1), tokenizer()
    long, rows = "ab" * 20, np.arange(1)
    with pytest.raises(PotentialError, match=r"a text of 42 tokens, where BertFor.* takes 32.*truncation=True"):
        reward(model, tokenizer=words).final(population([long]), rows)
    pipe = pipeline("text-classification", model=model, tokenizer=words, truncation=True, max_length=10)
    truth = ask(model, words, long, truncation=True, max_length=10).item()
    assert reward(pipe).final(population([long]), rows) == pytest.approx([truth], abs=1e-6)


def test_a_classifier_steers(tiny_lm: Any, bert: Any, tokenizer: Any) -> None:
    """Its evidence is that of the same numbers given by hand."""
    model, words = bert(num_labels=3, id2label=LABELS), tokenizer()
    task = tiny_lm("a", "b").prompt(tokens=[1], max_tokens=3)
    by_hand = reward(lambda text: torch.log_softmax(ask(model, words, text), 0)[0].item())
    by_model = reward(model, tokenizer=words, label="BAD", every="end")
    truth = fk.steer(task, by_hand, algorithm="exact").log_evidence
    assert fk.steer(task, by_model, algorithm="exact").log_evidence == pytest.approx(truth, abs=1e-6)


def test_what_is_no_classifier_is_refused_where_it_is_given(bert: Any, tokenizer: Any) -> None:
    model, words = bert(num_labels=3, id2label=LABELS), tokenizer()
    features = pipeline("feature-extraction", model=bert("BertModel"), tokenizer=words)
    twice = bert(num_labels=2, id2label={0: "X", 1: "X"})
    pipe = pipeline("text-classification", model=model, tokenizer=words)
    for wrong, problem in [
        (lambda: reward(features), "a pipeline for 'feature-extraction', and a reward takes one for 'text-class"),
        (lambda: as_potential(features), "a pipeline for 'feature-extraction'"),
        (lambda: reward(bert("BertModel"), tokenizer=words), "BertModel gives no scores of texts.*fk.similarity"),
        (lambda: as_potential(bert("BertModel")), "BertModel gives no scores of texts"),
        (lambda: reward(model), r"give its tokenizer, too: reward\(model, tokenizer=tokenizer\)"),
        (lambda: reward(pipe, tokenizer=words, label=0), "leave tokenizer= out"),
        (lambda: reward(pipe), "say which label is wanted.*'BAD', 'GOOD', 'SO SO'"),
        (lambda: reward(pipe, label="good"), "label='good' is none that this model has: 'BAD', 'GOOD', 'SO SO'"),
        (lambda: reward(pipe, label=3), "label=3 is none that this model has"),
        (lambda: reward(twice, tokenizer=words, label="X"), r"names the outputs \[0, 1\].*one of the numbers"),
        (lambda: reward(pipe, label=0, score="prob"), "'log_prob' or 'logit'"),  # type: ignore[arg-type]
        (lambda: reward(pipe, label=0, reads="both"), "'text', 'pair' or 'chat'"),  # type: ignore[arg-type]
        (lambda: reward(pipe, label=0, reads="chat"), "needs a tokenizer with a chat template"),
        (lambda: reward(pipe, label=0, workers=2), "leave batch, workers"),
        (lambda: constraint(pipe), "a model gives numbers; use reward"),
        (
            lambda: reward(bert(num_labels=1, problem_type="regression"), tokenizer=words, score="log_prob"),
            "no probabilities",
        ),
        (lambda: reward(copy.deepcopy(model).train(), tokenizer=words, label=0), "training mode"),
    ]:
        with pytest.raises(ArgumentError, match=problem):
            wrong()


def test_a_model_put_into_training_mode_later_is_refused_too(population: Any, bert: Any, tokenizer: Any) -> None:
    model = bert(num_labels=1)
    potential = reward(model, tokenizer=tokenizer())
    model.train()
    with pytest.raises(PotentialError, match="training mode"):
        potential.final(population(["a"]), np.arange(1))


def test_a_classifier_of_texts_names_a_state_without_texts(bert: Any, tokenizer: Any) -> None:
    class Images:
        def __len__(self) -> int:
            return 1

    with pytest.raises(PotentialError, match=r"'reward\(BertFor.*is a function of texts, and Images has none"):
        reward(bert(num_labels=1), tokenizer=tokenizer()).final(Images(), np.arange(1))  # type: ignore[arg-type]


def test_threads_share_one_classifier(population: Any, bert: Any, tokenizer: Any) -> None:
    """A fast tokenizer that is asked from two threads at once would raise."""
    from concurrent.futures import ThreadPoolExecutor

    potential = reward(bert(num_labels=1), tokenizer=tokenizer())
    truth = potential.final(population(TEXTS), ROWS).tolist()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: potential.final(population(TEXTS), ROWS).tolist(), range(20)))
    assert all(each == truth for each in found)
