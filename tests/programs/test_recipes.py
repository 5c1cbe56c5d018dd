"""The recipes: tiny models against brute force, to float32; the demo's model, that they do what they say."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from brute_force import agree, chatty, law, texts

import feynkac as fk
from feynkac.base.errors import AllParticlesDied, ArgumentError
from feynkac.models.language.caches.shared import SharedContexts
from feynkac.potentials import constraint, product
from feynkac.programs import recipes
from feynkac.programs.recipes import (
    avoid,
    extract,
    haiku,
    infill,
    intersect,
    reason,
    short_words,
    speculate,
    think,
    vote,
)  # fmt: skip
from feynkac.programs.recipes.reasoning import arithmetic
from feynkac.programs.recipes.syllables import count_syllables, count_vowel_groups

# --- exact, on tiny models -----------------------------------------------------------------------------------------


def test_avoid_is_the_law_without_the_letter(tiny_lm) -> None:
    lm = tiny_lm("a", "e", "E")
    truth = {text: m * ("e" not in text.lower()) for text, m in texts(law(lm, "a"), "aeE", 2).items()}
    agree(avoid(lm, "a", "e", 2), truth)


def test_short_words_are_the_law_of_short_words(tiny_lm) -> None:
    lm = tiny_lm("a", "b", "-")
    truth = texts(law(lm, "ab"), "ab-", 3)
    short = {text: m * all(len(word) <= 2 for word in text.split("-")) for text, m in truth.items()}
    agree(short_words(lm, "ab", longest=2, max_tokens=3), short)


def test_infilling_weighs_by_the_fixed_text(tiny_lm) -> None:
    lm = tiny_lm("a", "b")
    p = law(lm, "ab")
    truth = {}
    for gap in ("a", "b", "aa", "ab", "ba", "bb"):
        text = gap + "ba"
        truth["ab" + text] = 0.5 * math.prod(p(text[:i], c) for i, c in enumerate(text))
    agree(infill(lm, "ab___ba", longest=2), truth)
    twice: dict[str, float] = {}
    for first, second in itertools.product("ab", repeat=2):
        text = first + "b" + second
        twice["ab" + text] = math.prod(p(text[:i], c) for i, c in enumerate(text))
    agree(infill(lm, "ab ___b   ___", longest=1), twice, n=2)


@pytest.mark.parametrize("n", [1, 2])
def test_the_intersection_of_prompts_is_their_product(tiny_lm, n: int) -> None:
    lm = tiny_lm("a", "b")
    prompts = ["ab", "b", "aa"][: 4 - n]
    each = [texts(law(lm, prompt), "ab", 2) for prompt in prompts]
    truth = {text: math.prod(masses[text] for masses in each) for text in each[0]}
    agree(intersect(lm, prompts, 2), truth, n)


@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2])
def test_whatever_the_draft_the_law_is_the_target_s(tiny_lm, n: int, block: int) -> None:
    lm, draft = tiny_lm("a", "b"), tiny_lm("a", "b", seed=1)
    truth = texts(law(lm, "ab"), "ab", 2)
    agree(speculate(lm, draft, "ab", 2, block, temperature=0.7), truth, n)


class Uneven:
    """Guesses that favour some rows for nothing, so that others are forked from them."""

    def level(self, t, state, rows):
        return 1.5 * np.asarray(rows, float) * (-1) ** t

    def final(self, state, rows):
        return np.zeros(len(rows))


def test_a_draft_may_be_forked_within_a_block(tiny_lm) -> None:
    lm, draft = tiny_lm("a", "b"), tiny_lm("a", "b", seed=1)
    agree(speculate(lm, draft, "ab", 2, block=2), texts(law(lm, "ab"), "ab", 2), 2, potential=Uneven())


def test_a_block_is_verified_in_one_forward_pass(tiny_lm, monkeypatch) -> None:
    lm, draft, passes = tiny_lm("a", "b", eos=()), tiny_lm("a", "b", seed=1, eos=()), Counter()
    fk.steer(speculate(lm, draft, "ab", 1), particles=1)  # the first run of a model checks its cache
    for name in ("extend", "append"):
        method = getattr(SharedContexts, name)

        def counted(self, *args, method=method, **kwargs):
            passes[self._twins.model] += 1
            return method(self, *args, **kwargs)

        monkeypatch.setattr(SharedContexts, name, counted)
    fk.steer(speculate(lm, draft, "ab", 12, block=4), particles=4, seed=0)
    assert passes == {lm.model: 3, draft.model: 12 - 1}


def test_a_draft_leaves_the_evidence_of_a_constraint_alone(tiny_lm) -> None:
    lm, draft = tiny_lm("a", "b"), tiny_lm("a", "b", seed=1)
    truth = {text: mass * text.endswith("b") for text, mass in texts(law(lm, "ab"), "ab", 2).items()}
    agree(speculate(lm, draft, "ab", 2), truth, potential=product(constraint(lambda text: text.endswith("b"))))


def test_a_draft_of_another_vocabulary_is_refused(tiny_lm) -> None:
    with pytest.raises(ArgumentError, match="another model's vocabulary"):
        fk.steer(speculate(tiny_lm("a", "b"), tiny_lm("b", "a"), "ab", 2), particles=4, seed=0)


def alive(result: fk.Result) -> list[Any]:
    assert math.isfinite(result.log_evidence)
    return [sample for sample, w in zip(result.samples, result.weights, strict=True) if w > 0.0]


@pytest.mark.parametrize("n", [1, 2])
def test_verdicts_on_the_way_leave_the_target_alone(tiny_lm, n: int) -> None:
    lm = chatty(tiny_lm("a", "b", seed=2))
    truth = {text: m * math.exp(0.7 * text.count("a")) for text, m in texts(law(lm, "ab"), "ab", 4 // n).items()}
    agree(reason(lm, "ab", lambda text: text.count("a"), scale=0.7, steps=2, step_tokens=2 // n), truth, n)


def test_extraction_has_the_law_of_valid_answers(tiny_lm) -> None:
    lm = chatty(tiny_lm("a", "1", "2", "-", seed=1))
    p = law(lm, "a")
    schema = {"type": "integer", "enum": [1, 2, -1, 12]}
    first = {c: p("", c) for c in "12-"}
    truth = {
        "1": first["1"] * (1.0 - p("1", "2")),
        "12": first["1"] * p("1", "2"),
        "2": first["2"],
        "-1": first["-"] * p("-", "1"),
    }
    agree(extract(lm, "a", schema, instruction="", max_tokens=4), truth)


def test_a_vote_sums_over_thoughts(tiny_lm) -> None:
    lm = chatty(tiny_lm("a", "0", "1"))
    p = law(lm, "a")
    truth = {"0": 0.0, "1": 0.0}
    for thought, mass in texts(p, "a01", 1).items():
        for answer in truth:
            truth[answer] += mass * p(thought + "a", answer)
    agree(vote(lm, "a", answer="[01]", cue="a", thought_tokens=1, answer_tokens=1), truth)


def test_an_answer_behind_thoughts_has_the_law_of_both(tiny_lm) -> None:
    """Thoughts without "b" up to the first "b", then 0 or 1, all within three tokens."""
    lm = chatty(tiny_lm("a", "b", "0", "1", seed=1))
    p = law(lm, "a")
    truth = {"0": 0.0, "1": 0.0}
    for thought in ("", "a", "0", "1"):
        before = math.prod(p(thought[:i], c) for i, c in enumerate(thought)) * p(thought, "b")
        for answer in truth:
            truth[answer] += before * p(thought + "b", answer)
    agree(think(lm, "a", {"enum": [0, 1]}, marker="b", max_tokens=3), truth)
    agree(think(lm, "a", fk.choices(["0", "1"]), marker="b", max_tokens=3), truth)


def test_lines_have_their_syllables(tiny_lm) -> None:
    lm = tiny_lm("a", " ", "\n", "ba")
    for poem in alive(fk.steer(haiku(lm, "a", lines=(1, 2)), particles=60, seed=0)):
        assert [count_syllables(line) for line in poem.split("\n")] == [1, 2]


# --- on the demo's model -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(smollm2) -> fk.CausalLM:
    return fk.CausalLM.from_pretrained(str(smollm2))


@pytest.mark.slow
def test_letters_and_words_on_a_real_model(real) -> None:
    weather = "The weather today is"
    found = alive(fk.steer(avoid(real, weather, max_tokens=8), particles=4, seed=0))
    assert all("e" not in text.lower() and text for text in found)
    found = alive(fk.steer(short_words(real, weather, longest=4, max_tokens=8), particles=4, seed=0))
    assert all(len(word) <= 4 for text in found for word in re.findall(r"[^\W\d_]+", text))


@pytest.mark.slow
def test_infilling_and_intersection_on_a_real_model(real) -> None:
    result = fk.steer(infill(real, "My dog ___ the postman.", longest=2), particles=8, seed=0)
    assert all(text.startswith("My dog") and text.endswith(" the postman.") for text in alive(result))
    same = fk.steer(intersect(real, ["It is"] * 2, 4), particles=4, seed=0)
    apart = fk.steer(intersect(real, ["It is", "def f(x):"], 4), particles=4, seed=0)
    assert apart.log_evidence < same.log_evidence < 0.0


def test_a_draft_of_the_model_itself_weighs_nothing(real) -> None:
    result = fk.steer(speculate(real, real, "Once upon a time", 6), particles=4, seed=0)
    assert result.log_evidence == pytest.approx(0.0, abs=1e-3) and result.ess == pytest.approx(4.0, abs=1e-3)


def test_extraction_on_a_real_model(real) -> None:
    fields = {"day": {"enum": ["Monday", "Friday"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}}
    schema = {"type": "object", "properties": fields, "required": ["day", "age"], "additionalProperties": False}
    passage = "On Monday Ada Lovelace, 36, arrived in London."
    result = fk.steer(extract(real, passage, schema, verbatim=True), particles=8, seed=0)
    for answer in map(json.loads, alive(result)):
        assert answer["day"] == "Monday" and 0 <= answer["age"] <= 99
    with pytest.raises(AllParticlesDied):
        fk.steer(extract(real, "Nothing.", {"enum": ["x"]}, verbatim=True), particles=2, seed=0)


@pytest.mark.slow
def test_reasoning_and_voting_on_a_real_model(real) -> None:
    result = fk.steer(reason(real, "What is 2 + 3?", steps=2, step_tokens=8), particles=4, seed=0)
    assert all(isinstance(text, str) and text for text in alive(result))
    result = fk.steer(vote(real, "What is 2 + 3?", thought_tokens=8), particles=4, seed=0)
    assert all(answer.isdecimal() for answer in alive(result))


@pytest.mark.slow
def test_a_haiku_has_its_syllables(real) -> None:
    result = fk.steer(haiku(real, "autumn"), particles=128, seed=0)
    for poem in alive(result):
        assert [count_syllables(line) for line in poem.split("\n")] == [5, 7, 5]


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes.__all__)
def test_the_example_runs_as_typed(real, name: str) -> None:
    """But for fewer particles, all of which may die."""
    lines = re.findall(r"^ {8}(.*)$", getattr(recipes, name).__doc__, re.MULTILINE)
    example = re.sub(r"particles=\d+", "particles=8, on_death='return'", "\n".join(lines))
    assert "feynkac.steer" in example
    with contextlib.suppress(AllParticlesDied):  # there is no posterior then
        exec(example, {"feynkac": fk, "lm": real, **vars(recipes)})


# --- what they count with ------------------------------------------------------------------------------------------


def test_syllables() -> None:
    for word, count in {"strength": 1, "make": 1, "autumn": 2, "little": 2, "banana": 3, "the": 1, "zxqy": 1}.items():
        assert count_vowel_groups(word) == count
    assert count_syllables("") == count_syllables(" — 12") == 0
    assert count_syllables("Banana, don’t make") == 5


def test_syllables_of_the_dictionary() -> None:
    pytest.importorskip("pronouncing")
    assert count_syllables("area") == 3 and count_syllables("moved") == 1 and count_syllables("poem") == 2


def test_arithmetic() -> None:
    assert arithmetic("2 * 3 = 6, and 6+12 = 18. So 18 / 4 = 4.5.") == 3.0
    assert arithmetic("2 + 2 = 5; 7 - 9 = -2; 1 / 0 = 0") == -1.0
    assert arithmetic("no equation") == 0.0
