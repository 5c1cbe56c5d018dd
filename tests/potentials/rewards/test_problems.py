"""Functions of the sample that are told which problem they score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.errors import ArgumentError, PotentialError
from feynkac.base.problems import Problem, list_problems
from feynkac.potentials import as_potential, constraint, reward

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}a{% endif %}"


def by_name(text: str, problem: Any) -> float:
    return float(problem.index)


def by_annotation(text: str, told: Problem) -> float:
    return float(told.index)


def by_written_annotation(text: str, told: fk.Problem) -> float:
    return float(told.index)


def by_keyword(text: str, *, problem: Any) -> float:
    return float(problem.index)


def by_default(text: str, problem: Any = None) -> float:
    return float(problem.index)


async def later(text: str, problem: Any) -> float:
    return float(problem.index)


class Method:
    def __call__(self, text: str, problem: Any) -> float:
        return float(problem.index)


@pytest.fixture
def two(population: Any) -> Any:
    """Rows of two problems, with the same texts."""

    class OfProblems(population):
        def tell_problems(self, rows: Any) -> list[Problem]:
            return list_problems([i // 2 for i in rows], None, lambda g: Problem(g, f"prompt {g}"))

    return OfProblems(["a", "b", "a", "b"])


@pytest.mark.parametrize("f", [by_name, by_annotation, by_written_annotation, by_keyword, by_default, later, Method()])
def test_a_function_that_takes_the_problem_is_told_it(two: Any, f: Any) -> None:
    for potential in (reward(f), as_potential(f)):
        assert potential.level(0, two, np.arange(4)).tolist() == [0, 0, 1, 1]
        assert potential.final(two, np.array([3, 0])).tolist() == [1, 0]


def test_a_function_of_all_texts_is_told_all_problems(two: Any) -> None:
    asked = []

    def f(texts: list[str], problems: list[fk.Problem]) -> Any:
        asked.append((texts, [problem.prompt for problem in problems]))
        return [problem.index for problem in problems]

    assert reward(f, batch=True).final(two, np.array([0, 2, 3, 0])).tolist() == [0, 1, 1, 0]
    assert asked == [(["a", "a", "b"], ["prompt 0", "prompt 1", "prompt 1"])], "each text of each problem once"


def test_a_constraint_is_told_the_problem(two: Any) -> None:
    keeps = constraint(lambda text, problem: problem.index == 1)
    assert keeps.final(two, np.arange(4)).tolist() == [-np.inf, -np.inf, 0, 0]


def test_a_state_that_tells_no_problem_is_named(population: Any) -> None:
    with pytest.raises(PotentialError, match=r"'reward\(by_name\)' takes the problem.*does not tell.*tell_problems"):
        reward(by_name).final(population(["a"]), np.arange(1))


def test_another_second_parameter_is_refused_with_the_form_that_works() -> None:
    with pytest.raises(ArgumentError, match=r"name the second one problem: def f\(text, problem\).*problem\.prompt"):
        reward(lambda prompt, response: 0.0)
    with pytest.raises(ArgumentError, match=r"def f\(texts, problems\), where each problem\.prompt"):
        reward(lambda prompts, responses: 0.0, batch=True)


def test_prompts_are_told_as_they_were_given(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")
    lm.tokenizer.chat_template = TEMPLATE
    chat = [{"role": "user", "content": "b"}]
    tasks = [lm.prompt("ab", max_tokens=2), lm.prompt(tokens=[2, 1], max_tokens=2), lm.prompt(chat=chat, max_tokens=2)]
    told: dict[int, Problem] = {}

    def f(text: str, problem: Problem) -> float:
        told[problem.index] = problem
        return 0.0

    fk.steer(tasks, reward(f), particles=2, seed=0)
    assert [told[i].prompt for i in range(3)] == ["ab", "ba", "ba"]
    assert told[0].chat is None and told[2].chat == ({"role": "user", "content": "b"},)
    assert told[2].read_messages("a") == [*chat, {"role": "assistant", "content": "a"}]


def test_the_conversation_that_a_text_ends() -> None:
    asked = {"role": "user", "content": "?"}
    assert Problem(0, "?").read_messages("!") == [asked, {"role": "assistant", "content": "!"}]
    begun = {"role": "assistant", "content": "Well, "}
    assert Problem(0, "", (asked, begun)).read_messages("!") == [asked, {"role": "assistant", "content": "Well, !"}]
    assert Problem(0).read_messages("!") is None
    assert begun["content"] == "Well, ", "what was given stays"


def test_each_problem_of_a_batch_has_the_target_that_it_is_told(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")
    tasks = [lm.prompt(tokens=[1], max_tokens=2), lm.prompt(tokens=[2], max_tokens=2)]
    apart = [
        fk.steer(task, reward(lambda text, g=g: (g + 1.0) * text.count("a")), algorithm="exact")
        for g, task in enumerate(tasks)
    ]
    together = fk.steer(
        tasks,
        reward(lambda text, problem: (problem.index + 1.0) * text.count("a")),
        particles=2000,
        seed=0,
        algorithm="importance",
    )
    for alone, one in zip(apart, together, strict=True):
        weights = np.exp(one.log_weights) * len(one.log_weights)
        error = weights.std() / np.sqrt(len(weights))
        assert abs(weights.mean() - np.exp(alone.log_evidence)) < 4.5 * error  # false alarm 7e-6


@pytest.mark.parametrize("algorithm", ["smc", "gibbs", "exact", "best_of_n"])
def test_problems_have_their_place_in_the_call_also_where_they_run_one_by_one(tiny_lm: Any, algorithm: Any) -> None:
    lm, told = tiny_lm("a", "b"), set()

    def f(text: str, problem: Problem) -> float:
        told.add((problem.index, problem.prompt))
        return 0.0

    tasks = [lm.prompt("a", max_tokens=2), lm.prompt("b", max_tokens=2)]
    fk.steer(tasks, reward(f), particles=4, seed=0, algorithm=algorithm)
    assert told == {(0, "a"), (1, "b")}


def test_programs_and_images_are_told_their_place(tiny_lm: Any) -> None:
    @fk.program
    def pick(p: Any, n: int) -> str:
        return "ab"[p.sample(fk.Bernoulli(0.5))] * n

    results = fk.steer([pick(1), pick(2)], reward(by_name), particles=8, seed=0)
    assert [np.exp(result.log_evidence) for result in results] == pytest.approx([1.0, np.e])
