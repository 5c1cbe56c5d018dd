"""What a language model over bytes reads, refuses, counts and reports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.models.language.bytewise.beams import END


@pytest.fixture(scope="module")
def lm(tiny_lm: Any) -> fk.CausalLM:
    return tiny_lm("a", "b", "ab", "ba", "é", seed=2)


def test_what_cannot_be_read_as_bytes_is_refused_where_it_is_given(lm: Any) -> None:
    for wrong in (None, "model", fk.bytewise(lm)):
        with pytest.raises(fk.ArgumentError, match="give a language model over tokens"):
            fk.bytewise(wrong)
    with pytest.raises(fk.ArgumentError, match="beam is 0; it must be an integer of at least 1, or None"):
        fk.bytewise(lm, beam=0)
    with pytest.raises(fk.ArgumentError, match=r"least is 1.0; it must be at least 0 and below 1"):
        fk.bytewise(lm, least=1.0)
    with pytest.raises(fk.ArgumentError, match="heal is -1"):
        fk.bytewise(lm, heal=-1)


def test_laws_that_read_the_tokens_so_far_are_refused(lm: Any) -> None:
    model = fk.bytewise(lm)
    for how in ({"repetition_penalty": 1.2}, {"no_repeat_ngram_size": 2}, {"logits_processor": [lambda ids, x: x]}):
        with pytest.raises(fk.ArgumentError, match="a byte model's prompt has other tokens than its texts"):
            model.prompt("a", **how)
    model.prompt("a", temperature=0.5, top_k=3)


def test_names_of_control_tokens_are_refused_in_texts_and_read_in_prompts(lm: Any) -> None:
    model = fk.bytewise(lm, heal=5)
    with pytest.raises(fk.ArgumentError, match="has the name of the control token '</s>'"):
        model.spell("a</s>")
    assert model.prompt(tokens=[1, 0, 3]).prompts[0].tokens == (
        END + 2,
        END + 1,
        *b"ab",
    )  # heals up to the control token


def test_constraints_read_characters_of_several_bytes(lm: Any) -> None:
    result = fk.steer(fk.bytewise(lm).prompt("a", max_tokens=4), fk.regex("[é]{2}"), particles=4, seed=0)
    assert set(result.posterior()) == {"éé"}


def test_grammars_and_schemas_mask_bytes(lm: Any) -> None:
    result = fk.steer(fk.bytewise(lm).prompt("a", max_tokens=4), fk.grammar('start: "ab"+'), particles=8, seed=0)
    assert set(result.posterior()) <= {"ab", "abab"}


def test_a_result_says_what_the_beam_dropped_and_what_went_through_the_model(lm: Any) -> None:
    narrow = fk.bytewise(lm, beam=1)
    task = narrow.prompt("a", max_tokens=30)
    result = fk.steer(task, fk.regex("[ab]{30}"), particles=4, seed=0)
    assert result.dropped is not None and result.dropped > 0.5
    assert any("the beam of the byte model dropped" in warning for warning in result.warnings)
    assert "dropped by the beam" in result.summary()
    assert fk.steer(fk.bytewise(lm, beam=None).prompt("a", max_tokens=3), particles=4, seed=0).dropped == 0.0
    assert fk.steer(lm.prompt("a", max_tokens=3), particles=4, seed=0).dropped is None
    swept = fk.steer(narrow.prompt("a", max_tokens=4), fk.regex("[ab]{4}"), algorithm="gibbs", particles=3, sweeps=2)
    assert swept.dropped is not None and swept.dropped > 0.0
    exact = fk.steer(narrow.prompt("a", max_tokens=2), algorithm="exact")
    measured = narrow.measure(narrow.prompt("a", max_tokens=2), [""])
    assert exact.dropped is not None and exact.dropped > 0.0 == measured.dropped[0]
    contexts = narrow.open([task.prompts[0].tokens], 8)
    contexts.start()
    spent, before = contexts.spent.sum(), contexts.forwarded
    contexts.extend(np.array([0, 0]), np.array([ord("a"), ord("b")]))
    assert spent == before == 1 and contexts.spent.sum() == contexts.forwarded - before > 0


def test_a_result_counts_tokens_and_not_bytes(lm: Any) -> None:
    model = fk.bytewise(lm, beam=None)
    task = model.prompt("a", max_tokens=2)
    counted = fk.steer(task, algorithm="exact").forwarded_tokens
    single = fk.steer(task, particles=1, seed=0).forwarded_tokens
    assert counted is not None and single is not None and counted >= single > 0


def test_a_text_that_the_beam_has_lost_has_no_mass_and_an_error_without_bound(tiny_lm: Any) -> None:
    """Only "ab" ends with a b: where the beam has dropped it for an "a", nothing spells what follows "ab"."""
    lm, texts = tiny_lm("a", "ab", "ba", "c", seed=0), ["abc", "acabc"]
    narrow, whole = fk.bytewise(lm, beam=1), fk.bytewise(lm, beam=None)
    measured, exact = narrow.measure(narrow.prompt("c"), texts), whole.score("c", texts)
    assert 0.0 < measured.dropped[0] < measured.dropped[1] == np.inf
    assert measured.log_prob[0] - measured.dropped[0] <= exact[0] + 1e-5
    assert measured.log_prob[1] == -np.inf < exact[1]


def test_programs_write_bytes(lm: Any) -> None:
    model = fk.bytewise(lm)

    @fk.program
    def write(p: Any) -> str:
        text = model.context("a")
        text.append("é")
        p.sample(text.gen(choices=["ab", "b"]))
        return str(text)

    assert set(fk.steer(write(), particles=4, seed=0).posterior()) <= {"éab", "éb"}


def test_a_prompt_is_shown_as_its_text(lm: Any) -> None:
    model = fk.bytewise(lm)
    assert model.vocabulary.text(model.prompt("abé").prompts[0].tokens) == "abé"
    seen: set[str | None] = set()

    def score(text: str, problem: fk.Problem) -> float:
        seen.add(problem.prompt)
        return 0.0

    fk.steer(model.prompt(tokens=[1, 2], max_tokens=2), fk.reward(score), particles=2, seed=0)
    assert seen == {"ab"}
