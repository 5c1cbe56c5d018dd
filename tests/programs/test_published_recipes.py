"""Recipes after published systems: on tiny models against brute force over every random choice of a run."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from brute_force import END, agree, chatty, law, texts

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.programs.recipes import (
    choose,
    converse,
    evolve,
    evolving,
    explain,
    intersect,
    justify,
    solve,
    support,
    translate,
)
from feynkac.programs.recipes.asking import count_yes
from feynkac.programs.recipes.choosing import Choice, rate_options
from feynkac.programs.recipes.examples import find_nearest, write_turns
from feynkac.programs.recipes.planning import count_actions, fit_policy
from feynkac.programs.recipes.sandbox import Ran
from feynkac.programs.recipes.translating import find_terms


@pytest.fixture
def speaker(tiny_lm) -> Any:
    """Makes tiny chat models with the characters of some texts; to them a chat is its contents, one after the other."""

    def make(*written: str, seed: int = 1) -> Any:
        lm = chatty(tiny_lm(*sorted(set("".join(written))), seed=seed))
        lm.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        return lm

    return make


def spell(p: Any, text: str, before: str = "") -> float:
    """The probability of `text` behind `before`, by a law of `brute_force.law`."""
    return math.prod(p(before + text[:i], c) for i, c in enumerate(text))


def letters(lm: Any) -> list[str]:
    """All single tokens, and the end."""
    return [END, *(token.decode() for i, token in enumerate(lm.vocabulary.tokens) if i)]


# --- code or text --------------------------------------------------------------------------------------------------

SOLVING = "q\nSolve it by Python code that prints the answer, or by text."
CHECKING = "q\nIs the answer {}? Say Yes or No."


def pretend(code: str) -> Ran:
    """Vowels print 1, other letters 0, all else fails."""
    return Ran("1\n" if code in "aeiou" else "0\n", "") if code.isalpha() else Ran("", "SyntaxError")


@pytest.mark.parametrize("own", [True, False])
def test_code_and_text_have_the_law_of_answers_that_the_checker_weighs(speaker, own: bool) -> None:
    lm = speaker(SOLVING, CHECKING, "I solve it by code:\n```python", "text.\nThe answer is 01")
    p, begun = law(lm, SOLVING), "I solve it by "
    truth = dict.fromkeys(itertools.product(["code", "text"], "01"), 0.0)
    code, text = f"{begun}code:\n```python\n", f"{begun}text.\n"
    for first in letters(lm):
        if first.isalpha():
            truth["code", pretend(first).output.strip()] += spell(p, "code", begun) * p(code, first)
        for found in "01":
            thought = p(text, first)
            truth["text", found] += spell(p, "text", begun) * thought * p(f"{text}{first}\nThe answer is ", found)
    for way, found in truth:
        critic = law(lm, CHECKING.format(found))
        yes, no = spell(critic, "Yes"), spell(critic, "No")
        truth[way, found] *= yes / (yes + no) if own else math.exp(0.3 * int(found))
    check = None if own else lambda found: 0.3 * int(found)
    agree(solve(lm, "q", "[01]", check, run=pretend, code_tokens=1, text_tokens=1), truth)


def test_code_is_run_once_a_particle(speaker) -> None:
    """However often it is forked, which runs the program anew."""
    lm, calls = speaker(SOLVING, "I solve it by code:\n```python", "text.\nThe answer is 01"), Counter[str]()

    def counting(code: str) -> Ran:
        calls[code] += 1
        return pretend(code)

    run = solve(lm, "q", "[01]", float, run=counting, code_tokens=1, text_tokens=1)
    found = fk.steer(run, particles=24, seed=0)
    assert 0 < sum(calls.values()) <= 24 and {way for way, _ in found.samples} == {"code", "text"}


# --- critical questions --------------------------------------------------------------------------------------------


def test_at_least_so_many_yeses() -> None:
    p = [0.2, 0.7, 0.5]
    for least in range(5):
        truth = sum(
            math.prod(q if yes else 1.0 - q for q, yes in zip(p, answers, strict=True))
            for answers in itertools.product([0, 1], repeat=3)
            if sum(answers) >= least
        )
        assert count_yes(p, least) == pytest.approx(truth, abs=1e-15)


@pytest.mark.parametrize("least", [1, None])
def test_a_justified_answer_is_that_of_an_approved_plan(speaker, least: int | None) -> None:
    planning_, asking = "q\nPlan the answer, step by step.", ["Is it?", "Was it?"]
    lm = speaker(planning_, "Plan: Say only the answer. Yes or No. 01 Is it? Was it?")
    p = law(lm, planning_)
    truth = {"0": 0.0, "1": 0.0}
    for plan in letters(lm):
        critics = [law(lm, f"q\nPlan: {plan}\n{each} Say Yes or No.") for each in asking]
        approval = [spell(c, "Yes") / (spell(c, "Yes") + spell(c, "No")) for c in critics]
        enough = math.prod(approval) if least is None else 1.0 - math.prod(1.0 - a for a in approval)
        answer = law(lm, f"q\nPlan: {plan}\nSay only the answer.")
        for found in truth:
            truth[found] += p("", plan) * enough * answer("", found)
    agree(justify(lm, "q", "[01]", questions=asking, least=least, plan_tokens=1, answer_tokens=1), truth)


@pytest.mark.parametrize("least", [-1, 9])
def test_more_yeses_than_questions_are_refused(speaker, least: int) -> None:
    with pytest.raises(ArgumentError, match=r"justify.*least.*(8 questions|at least 0)"):
        fk.steer(justify(speaker("q"), "q", least=least), particles=2)


# --- multiple choice -----------------------------------------------------------------------------------------------

PETS = Choice("Pet?", ("x", "y"), "y", "so")
CHARACTERS = "Pet?Hue?\nA. xyso Answer: B"


def write(options: Any) -> str:
    """The chat of a question about hues behind the example of pets."""
    first, second = options
    return f"Pet?\nA. x\nB. yso\nAnswer: BHue?\nA. {first}\nB. {second}"


def test_a_choice_sums_over_thoughts_and_orders(speaker) -> None:
    lm = speaker(CHARACTERS)
    truth = {"x": 0.0, "y": 0.0}
    for order in itertools.permutations("xy"):
        p = law(lm, write(order))
        for thought, (i, option) in itertools.product(letters(lm), enumerate(order)):
            truth[option] += 0.5 * p("", thought) * spell(p, f" {'AB'[i]}", f"{thought}\nAnswer:")
    agree(choose(lm, "Hue?", ["x", "y"], [PETS], thought_tokens=1), truth)


def test_all_orders_listed_are_the_posterior_of_a_choice(speaker) -> None:
    lm = speaker(CHARACTERS + "zC")
    masses = dict.fromkeys("xyz", 0.0)
    for order in itertools.permutations("xyz"):
        p = law(lm, "Hue?\n" + "\n".join(f"{letter}. {option}" for letter, option in zip("ABC", order, strict=True)))
        for letter, option in zip("ABC", order, strict=True):
            masses[option] += spell(p, f" {letter}", "Answer:") / 6.0
    agree(choose(lm, "Hue?", ["x", "y", "z"]), masses)
    rated = rate_options(lm, "Hue?", ["x", "y", "z"])
    total = sum(masses.values())
    assert rated == pytest.approx({option: mass / total for option, mass in masses.items()}, abs=2e-6)


def test_an_explanation_leads_to_the_right_answer(speaker) -> None:
    lm = speaker(CHARACTERS)
    p = law(lm, "Pet?\nA. x\nB. y")
    truth = {}
    for thought in letters(lm):
        a, b = (spell(p, f" {letter}", f"{thought}\nAnswer:") for letter in "AB")
        truth[PETS._replace(thought=thought)] = p("", thought) * b / (a + b)
    agree(explain(lm, PETS, thought_tokens=1), truth)


@pytest.mark.parametrize("options", ["xy", ["x"], ["x", "x"], [str(i) for i in range(27)]])
def test_options_are_a_list_of_different_texts(speaker, options: Any) -> None:
    with pytest.raises(ArgumentError, match="2 to 26"):
        fk.steer(choose(speaker("q"), "q", options), particles=2)


def test_an_example_whose_answer_is_no_option_is_refused(speaker) -> None:
    with pytest.raises(ArgumentError, match="none of its options"):
        fk.steer(explain(speaker(CHARACTERS), PETS._replace(answer="z")), particles=2)


def test_too_many_orders_are_not_listed(speaker) -> None:
    with pytest.raises(ArgumentError, match="720 orders"):
        rate_options(speaker("q"), "q", list("abcdef"))


# --- examples ------------------------------------------------------------------------------------------------------

PLACES = {"north": (1.0, 0.1), "east": (0.0, 3.0), "south": (-2.0, 0.0), "up": (0.5, 0.5)}


def test_the_nearest_examples_come_last() -> None:
    def embed(texts: list[str]) -> list[tuple[float, float]]:
        return [PLACES.get(text, (1.0, 0.0)) for text in texts]

    assert find_nearest("here", list(PLACES), embed, shots=3) == ["east", "up", "north"]
    assert find_nearest("here", [("east", 1), ("north", 2)], embed, shots=1) == [("north", 2)]
    assert find_nearest("here", [(1, "east"), (2, "north")], embed, shots=1, key=lambda each: each[1]) == [(2, "north")]
    assert find_nearest("here", [], embed) == [] and find_nearest("here", ["east"], embed, shots=0) == []


@pytest.mark.parametrize("rows", [[[1.0, 0.0]], [1.0, 2.0], [[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [np.nan, 0.0]]])
def test_an_embedding_has_a_row_of_some_length_for_each_text(rows: Any) -> None:
    with pytest.raises(ArgumentError, match="embed gave"):
        find_nearest("here", ["there"], lambda texts: rows)


def test_examples_are_turns_of_a_chat() -> None:
    said = [(turn["role"], turn["content"]) for turn in write_turns([("a", "b"), ("c", "d")], "e")]
    assert said == [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")]


# --- translation ---------------------------------------------------------------------------------------------------


def test_a_translation_has_the_law_of_lines_with_the_terms(speaker) -> None:
    lm = speaker("Translate into F: ab\n")
    p = law(lm, "Translate into F: abTranslate into F: b")
    truth = dict[str, float]()
    characters = [c for c in letters(lm) if c not in (END, "\n")]
    for text in ("".join(each) for n in (1, 2) for each in itertools.product(characters, repeat=n)):
        if re.search(r"(?<!\w)a(?!\w)", text, re.IGNORECASE):
            ends = p(text, END) + p(text, "\n") if len(text) < 2 else 1.0
            truth[text.strip()] = truth.get(text.strip(), 0.0) + spell(p, text) * ends
    agree(translate(lm, "b", {"B": "a"}, [("a", "b")], into="F", max_tokens=2), truth)


def test_a_term_stands_in_a_source_as_a_whole_word() -> None:
    glossary = {"bank": "rive", "C++": "C plus", "river bank": "berge"}
    assert find_terms("The Bank is high.", glossary) == ("rive",)
    assert find_terms("A banker knows C++.", glossary) == ("C plus",)
    assert find_terms("The river bank", glossary) == ("rive", "berge")


def test_without_terms_a_translation_is_one_line(speaker) -> None:
    lm = speaker("Translate into F: ab\n")
    for text in fk.steer(translate(lm, "b", {"c": "a"}, into="F", max_tokens=3), particles=20, seed=0).samples:
        assert "\n" not in text


@pytest.mark.parametrize("glossary", [{"": "a"}, {"a": " "}])
def test_an_empty_term_is_refused(speaker, glossary: dict[str, str]) -> None:
    with pytest.raises(ArgumentError, match="empty"):
        fk.steer(translate(speaker("a"), "a", glossary), particles=2)


# --- evolution -----------------------------------------------------------------------------------------------------


def evolved(lm: Any, instructions: dict[str, float], length: int) -> dict[tuple[str, str], float]:
    """The mass of each instruction and response, weighed by exp(0.7 a) for a times the letter a."""
    truth = {}
    for instruction, share in instructions.items():
        for text, mass in texts(law(lm, instruction), "ab", length).items():
            truth[instruction, text] = share * mass * math.exp(0.7 * text.count("a"))
    return truth


def run_evolution(lm: Any, blocks: int) -> Any:
    return evolve(lm, ["a", "bb"], lambda text: text.count("a"), 0.7, blocks=blocks, block_tokens=1)


def test_mutations_leave_the_law_of_instruction_and_response_alone(tiny_lm) -> None:
    lm = chatty(tiny_lm("a", "b", seed=2))
    agree(run_evolution(lm, 3), evolved(lm, {"a": 0.5, "bb": 0.5}, 3))


def test_a_mutation_that_is_always_taken_is_another_law(tiny_lm, monkeypatch) -> None:
    lm = chatty(tiny_lm("a", "b", seed=2))
    monkeypatch.setattr(evolving, "Bernoulli", lambda p: fk.Bernoulli(1.0))
    with pytest.raises(AssertionError):
        agree(run_evolution(lm, 2), evolved(lm, {"a": 0.5, "bb": 0.5}, 2))


def test_replacement_by_reward_leaves_the_law_alone(tiny_lm) -> None:
    """Two particles, so that the engine resamples by the rewards on the way."""
    lm = chatty(tiny_lm("a", seed=2))
    truth = {}
    for instruction in ("a", "aa"):
        for text, mass in texts(law(lm, instruction), "a", 2).items():
            truth[instruction, text] = 0.5 * mass * math.exp(len(text))
    agree(evolve(lm, ["a", "aa"], len, blocks=2, block_tokens=1), truth, n=2)


def test_instructions_that_the_model_makes_have_its_law(tiny_lm, monkeypatch) -> None:
    monkeypatch.setattr(evolving, "_REWORD", "b")
    lm = chatty(tiny_lm("a", "b", seed=2))
    lm.tokenizer.chat_template = "a{{ messages[0]['content'] }}"
    reworded = texts(law(lm, "aba"), "ab", 1)
    truth = dict[tuple[str, str], float]()
    for instruction, share in reworded.items():
        for (_, text), mass in evolved(lm, {"a" + instruction: share}, 2).items():
            truth[instruction, text] = mass
    run = evolve(lm, "a", lambda text: text.count("a"), 0.7, blocks=2, block_tokens=1, instruction_tokens=1)
    agree(run, truth)


@pytest.mark.parametrize("instructions", ["", []])
def test_no_instruction_is_refused(tiny_lm, instructions: Any) -> None:
    with pytest.raises(ArgumentError, match=r"instructions is .*; give a list of at least 1 texts"):
        fk.steer(evolve(chatty(tiny_lm("a", "b")), instructions, len), particles=2)


# --- dialogue planning ---------------------------------------------------------------------------------------------


def test_a_planned_dialogue_has_the_law_of_its_speakers(speaker) -> None:
    lm = speaker("ab", seed=3)
    logits = [[0.3, -0.4]]
    shares = np.exp(logits[0]) / np.exp(logits[0]).sum()
    truth = {}
    for action, reply, said in itertools.product([0, 1], letters(lm), letters(lm)):
        begun = "ab"[action]
        mass = shares[action] * law(lm, "b")(begun, reply) * law(lm, "ab" + begun + reply)("", said)
        dialogue = f"b\n{begun}{reply}\n{said}"
        truth[(action,), dialogue] = mass * math.exp(0.7 * dialogue.count("a"))
    agree(converse(lm, "a", "b", ["a", "b"], logits, lambda text: text.count("a"), 0.7, turn_tokens=1), truth)


@fk.program
def game(p, policy, reward):
    taken = tuple(p.sample(fk.Categorical(logits=row)) for row in policy)
    p.factor(reward[taken])
    return taken, "over"


REWARD = {(0, 0): 0.1, (0, 1): 1.0, (1, 0): 2.0, (1, 1): -0.5}


def test_the_policy_of_a_round_is_the_posterior_of_the_actions_and_earns_no_less() -> None:
    """EM by exact posteriors: the log evidence never falls."""
    policy, before = np.full((2, 2), 0.5), -np.inf
    for _ in range(8):
        masses = np.array([policy[0, a] * policy[1, b] * math.exp(r) for (a, b), r in REWARD.items()])
        assert math.log(masses.sum()) > before
        before = math.log(masses.sum())
        policy = count_actions(list(REWARD), masses / masses.sum(), (2, 2))
        assert policy.sum(axis=1) == pytest.approx(1.0)
    assert policy[0, 1] > 0.9 and policy[1, 0] > 0.9


def test_a_fitted_policy_takes_the_actions_that_earn_most() -> None:
    policy, evidence = fit_policy(lambda logits: game(logits, REWARD), (2, 2), rounds=6, explore=0.1, particles=200)
    assert policy.argmax(axis=1).tolist() == [1, 0] and len(evidence) == 6 and evidence[-1] > evidence[0]
    assert np.exp(policy).sum(axis=1) == pytest.approx(1.0) and np.exp(policy).min() >= 0.05 - 1e-12


@pytest.mark.parametrize("wrong", [{"explore": 1.5}, {"rounds": 0}, {"shape": (0, 2)}])
def test_a_fit_needs_a_share_rounds_and_a_shape(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        fit_policy(lambda logits: game(logits, REWARD), **{"shape": (2, 2), **wrong})


# --- emotional support ---------------------------------------------------------------------------------------------


def test_a_supporting_reply_is_weighed_by_the_odds_of_its_strategy(speaker) -> None:
    chosen, asking = "q\n(Answer with empathy: y.)", "\nWhat does this reply do?\nA. x\nB. y\nC. z"
    lm = speaker(chosen, asking, "Answer: C")
    truth = {}
    for reply in letters(lm):
        a, b, c = (spell(law(lm, reply + asking), f" {letter}", "Answer:") for letter in "ABC")
        truth[reply] = law(lm, chosen)("", reply) * (b / (a + c)) ** 0.7
    agree(support(lm, "q", "y", ["x", "y", "z"], scale=0.7, max_tokens=1), truth)


def test_a_text_is_not_taken_for_a_list_of_its_letters(speaker) -> None:
    lm = speaker("q")
    for task, name in (
        (intersect(lm, "qq"), "prompts"),
        (justify(lm, "q", questions="qq"), "questions"),
        (support(lm, "q", "q", "qq"), "strategies"),
        (converse(lm, "q", "q", "qq", [[0.0]], len), "actions"),
    ):
        with pytest.raises(ArgumentError, match=f"{name} is 'qq'; give a list of"):
            fk.steer(task, particles=2)


@pytest.mark.parametrize(("strategy", "strategies"), [("w", ["x", "y"]), ("x", ["x"])])
def test_a_strategy_is_one_of_several(speaker, strategy: str, strategies: list[str]) -> None:
    with pytest.raises(ArgumentError, match=r"name one|2 to 26"):
        fk.steer(support(speaker("q"), "q", strategy, strategies), particles=2)
