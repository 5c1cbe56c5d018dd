"""What the benchmark of steered texts is made of: its judge of word order, and what methods are compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from feynkac.models.discrete.network import load

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


def judge():
    from steered.acceptability import Judge

    network, vocabulary = load(FOLDER / "train" / "reviews.safetensors")
    words = [piece.decode() for piece in vocabulary.tokens]
    return Judge(words, network.shape["length"]), words


def test_a_judge_counts_a_text_as_the_network_that_was_trained():
    from steered.acceptability import FILE, Pairs

    known, words = judge()
    pairs = Pairs(len(words))
    pairs.load_state_dict({name: value.float() for name, value in load_file(FILE).items()})
    for length in (0, 1, 5, 8):
        ids = torch.zeros(8, dtype=torch.long)
        ids[:length] = torch.randint(1, len(words), (length,), generator=torch.Generator().manual_seed(length))
        wanted = torch.nn.functional.logsigmoid(pairs(ids[None]))[0].item()
        assert known.log_prob("".join(words[i] for i in ids.tolist())) == pytest.approx(wanted, abs=1e-4)


def test_a_phrase_as_it_was_written_is_liked_better_than_its_words_the_other_way_round():
    known, _ = judge()
    for text in (
        "it is one of the best films of the year",
        "there are some very good scenes",
        "this is not a bad film",
    ):
        said = text.split()[:8]
        assert known.log_prob(" ".join(said)) > known.log_prob(" ".join(said[::-1])) + 1.0


def test_what_is_chosen_from_a_pool_is_the_best_of_each_run_and_weights_are_the_potentials():
    from steered import masked

    pool = np.array(["a", "bbb", "bb", "cccc", "", "d"], dtype=object)
    weights, texts = masked.best_of(pool, len)(2, 3)
    assert texts.tolist() == [["bbb"], ["cccc"], ["d"]] and not weights.any()
    weights, texts = masked.importance(pool, lambda text: 2.0 * len(text))(3, 2)
    assert texts.tolist() == [["a", "bbb", "bb"], ["cccc", "", "d"]]
    assert weights.tolist() == [[2.0, 6.0, 4.0], [8.0, 0.0, 2.0]]


def test_a_target_that_was_found_has_its_evidence_and_its_draws():
    pytest.importorskip("vaderSentiment")
    from steered.texts import Control, find_target

    texts = np.array(["a b", "a b c", "a b c d"] * 3, dtype=object)
    found = find_target(Control("length", lambda text: len(text.split()), 0.5), texts, exact=2000)
    weight = np.exp(0.5 * np.array([2.0, 3.0, 4.0]))
    assert found["log_evidence"] == pytest.approx(np.log(weight.mean()))
    assert found["score"] == pytest.approx(weight @ [2, 3, 4] / weight.sum())
    drawn = np.bincount([len(text.split()) for text in found["texts"]], minlength=5)[2:]
    share = weight / weight.sum()
    off = (drawn - 2000 * share) / np.sqrt(2000 * share * (1 - share))
    assert np.abs(off).max() < 4.0  # one in 10,000 by chance
