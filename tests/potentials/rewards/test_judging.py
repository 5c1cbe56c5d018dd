"""A language model as a judge: against its own next-token law, by brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError, PotentialError
from feynkac.base.problems import Problem, list_problems
from feynkac.potentials import judge

TEMPLATE = "{% for m in messages %}{{ m['content'] }}b{% endfor %}{% if add_generation_prompt %}a{% endif %}"
TEXTS = ["ab", "a", "ba", "", "a"]
ROWS = np.arange(len(TEXTS))


def log_prob(lm: Any, prompt: str, answer: str) -> float:
    """Nats of `answer` behind `prompt`, token by token through the bare model."""
    ids = list(lm.begin(prompt))
    total = 0.0
    for token in lm.spell(answer):
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids])).logits[0, -1].double()
        total += float(torch.log_softmax(logits, 0)[token])
        ids.append(token)
    return total


@pytest.fixture
def lm(tiny_lm: Any) -> Any:
    return tiny_lm("a", "b", "Y", "N", " ", seed=4)


def ask(text: str) -> str:
    return f"{text}a"


def test_the_log_odds_of_yes_are_the_reward(population: Any, lm: Any) -> None:
    truth = [log_prob(lm, ask(text), "Y") - log_prob(lm, ask(text), "N") for text in TEXTS]
    potential = judge(lm, ask, scale=2.0, answers=("Y", "N"), every="token")
    assert potential.final(population(TEXTS), ROWS) == pytest.approx(2.0 * np.array(truth), abs=1e-5)
    assert potential.level(0, population(TEXTS), ROWS) == pytest.approx(2.0 * np.array(truth), abs=1e-5)


def test_the_log_probability_is_of_yes_among_both_answers(population: Any, lm: Any) -> None:
    potential = judge(lm, ask, answers=("Y", "N"), score="log_prob")
    truth = []
    for text in TEXTS:
        yes, no = log_prob(lm, ask(text), "Y"), log_prob(lm, ask(text), "N")
        truth.append(yes - np.logaddexp(yes, no))
    assert potential.final(population(TEXTS), ROWS) == pytest.approx(truth, abs=1e-5)


def test_answers_of_several_tokens_and_several_spellings_add_up(population: Any, lm: Any) -> None:
    yes, no = ["Ya", " Y"], ["N", " Nb"]
    potential = judge(lm, ask, answers=(yes, no))
    truth = [
        np.logaddexp.reduce([log_prob(lm, ask(text), each) for each in yes])
        - np.logaddexp.reduce([log_prob(lm, ask(text), each) for each in no])
        for text in TEXTS
    ]
    assert potential.final(population(TEXTS), ROWS) == pytest.approx(truth, abs=1e-5)


def test_a_chat_model_is_asked_in_its_template(population: Any, lm: Any) -> None:
    lm.tokenizer.chat_template = TEMPLATE
    potential = judge(lm, lambda text: [{"role": "user", "content": text}], answers=("Y", "N"))
    truth = [log_prob(lm, f"{text}ba", "Y") - log_prob(lm, f"{text}ba", "N") for text in TEXTS]
    assert potential.final(population(TEXTS), ROWS) == pytest.approx(truth, abs=1e-5)


class Recorder:
    """A language model that keeps what it was asked."""

    def __init__(self, chats: bool) -> None:
        self.chats, self.asked, self.answers = chats, list[Any](), list[str]()

    def score_answers(self, questions: Any, answers: Any) -> Any:
        self.asked += questions
        self.answers = list(answers)
        return np.tile(np.log([0.6, 0.2]), (len(questions), 1))


def test_the_question_comes_with_the_text_and_the_answers_that_are_looked_for(population: Any) -> None:
    plain, chat = Recorder(False), Recorder(True)
    for lm in (plain, chat):
        scores = judge(lm, "Is it polite?").final(population(TEXTS), ROWS)
        assert scores == pytest.approx(np.full(5, np.log(3.0)))
        assert len(lm.asked) == 4, "each distinct text once"
    written = "Is it polite?\n\nText: ab\n\nAnswer Yes or No."
    assert plain.asked[0] == f"{written}\nAnswer:" and plain.answers == [" Yes", " No"]
    assert chat.asked[0] == [{"role": "user", "content": written}] and chat.answers == ["Yes", "No"]


def test_the_question_may_depend_on_the_problem(population: Any) -> None:
    def tell(self: Any, rows: Any) -> list[Problem]:
        return list_problems([i % 2 for i in rows], None, lambda g: Problem(g, "xy"[g]))

    told = {"tell_problems": tell}
    state, lm = type("State", (population,), told)(["a", "a", "b"]), Recorder(False)
    judge(lm, lambda text, problem: problem.prompt + text).final(state, np.arange(3))
    assert lm.asked == ["xa", "ya", "xb"]


def test_a_judge_steers_to_its_exact_target(lm: Any) -> None:
    task = lm.prompt("a", max_tokens=2)
    by_hand = fk.reward(lambda text: 1.5 * (log_prob(lm, ask(text), "Y") - log_prob(lm, ask(text), "N")))
    truth = fk.steer(task, by_hand, algorithm="exact").log_evidence
    found = fk.steer(task, judge(lm, ask, scale=1.5, answers=("Y", "N")), algorithm="exact").log_evidence
    assert found == pytest.approx(truth, abs=1e-5)
    assert fk.steer(task, judge(lm, ask, answers=("Y", "N"), every="token"), particles=4, seed=0).complete


def test_all_questions_go_through_the_model_together(lm: Any) -> None:
    opened = []
    open_ = lm.open
    lm.open = lambda prompts, max_new: opened.append(len(prompts)) or open_(prompts, max_new)
    found = lm.score_answers(["a", "ab", "ba"], ["Y", "N"])
    truth = [[log_prob(lm, prompt, answer) for answer in ("Y", "N")] for prompt in ("a", "ab", "ba")]
    assert found == pytest.approx(np.array(truth), abs=1e-5) and opened == [3]
    assert lm.score_answers([], ["Y"]).shape == (0, 1)


def test_what_cannot_judge_is_refused_where_it_is_given(lm: Any) -> None:
    for wrong, problem in [
        (lambda: judge(3, "?"), "int is no language model to ask"),  # type: ignore[arg-type]
        (lambda: judge(lm, ""), "give a text, or a function of the text"),
        (lambda: judge(lm, "?", answers="Yes"), "give what stands for yes"),  # type: ignore[arg-type]
        (lambda: judge(lm, "?", answers=("Yes", "")), "'' is no answer"),
        (lambda: judge(lm, "?", answers=("Yes", [])), r"\[\] is no answer"),
        (lambda: judge(lm, "?", answers=("No way", "No")), "' No way' begins with the answer ' No'"),
        (lambda: judge(lm, "?", answers=("a", "a")), "begins with the answer"),
        (lambda: judge(lm, "?", score="odds"), "'log_odds' or 'log_prob'"),  # type: ignore[arg-type]
        (lambda: judge(lm, lambda a, b: a), "called with one argument"),
        (lambda: judge(lm, "?", every="line"), "re.compile"),
    ]:
        with pytest.raises(ArgumentError, match=problem):
            wrong()


def test_what_goes_wrong_inside_is_named(population: Any, lm: Any) -> None:
    with pytest.raises(PotentialError, match=r"'judge\(question\)' at the end.*raised ModelError.*window"):

        def question(text: str) -> str:
            return "a" * 600

        judge(lm, question, answers=("Y", "N")).final(population(["a"]), np.arange(1))
    with pytest.raises(ModelError, match="no chat template"):
        lm.score_answers([[{"role": "user", "content": "a"}]], ["Y"])
