"""docs/tasks.md: a newcomer's ten tasks, each a script that does what its title says in few statements."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import feynkac as fk

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tasks.md"
MOST = 8
SECTIONS = re.findall(
    r"^## \d+\. ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)
SCRIPTS = {title: re.findall(r"```python\n(.*?)```", part, re.DOTALL) for title, part in SECTIONS}
TASKS = list(SCRIPTS)


@pytest.fixture(scope="module")
def real(smollm2: Path) -> fk.CausalLM:
    return fk.CausalLM.from_pretrained(str(smollm2))


@pytest.fixture
def run(real: fk.CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a task in an empty folder that has the repository's models; gives the names it leaves behind."""
    os.symlink(ROOT / "benchmarks", tmp_path / "benchmarks")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fk.CausalLM, "demo", lambda: real)

    def act(number: int) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "task"}
        exec(compile(SCRIPTS[TASKS[number - 1]][0], f"task {number}", "exec"), names)
        return names

    return act


def test_there_are_ten_tasks_of_one_script_each() -> None:
    assert len(TASKS) == 10 and all(len(scripts) == 1 for scripts in SCRIPTS.values())


@pytest.mark.parametrize("title", TASKS)
def test_a_task_takes_few_statements(title: str) -> None:
    """All statements of Python's grammar, imports and those inside of functions included."""
    assert sum(isinstance(node, ast.stmt) for node in ast.walk(ast.parse(SCRIPTS[title][0]))) <= MOST


def test_people_are_valid_json(run: Any) -> None:
    names = run(1)
    for text, weight in zip(names["people"].texts, names["people"].weights, strict=True):
        found = json.loads(text) if weight else {"name": "", "age": 0}
        assert set(found) == {"name", "age"} and 0 <= found["age"] <= 120 and len(found["name"]) <= 12


def test_no_text_has_the_letter(run: Any) -> None:
    result = run(2)["result"]
    assert all("e" not in text.lower() for text, w in zip(result.texts, result.weights, strict=True) if w)


def test_the_answers_probabilities_add_up(run: Any) -> None:
    answers = run(3)["answers"]
    assert set(answers) == {" yes", " no", " maybe"} and sum(answers.values()) == pytest.approx(1.0)


def test_the_reward_makes_texts_shorter(run: Any) -> None:
    """Under p(x) exp(-len(x) / 5) the mean length is less than under p, by about a fifth of its variance."""
    names = run(4)
    plain = fk.steer(names["lm"].prompt("The weather today is", max_tokens=16), particles=16, seed=0)
    assert names["result"].expectation(len) < plain.expectation(len)


def test_the_evidence_has_an_interval(run: Any) -> None:
    result = run(5)["result"]
    low, high = result.log_evidence_interval()
    assert low <= result.log_evidence <= high and result.log_evidence < 0.0


def test_two_prompts_agree(run: Any) -> None:
    assert isinstance(run(6)["both"].best, str)


def test_the_concept_moves_the_scores(run: Any) -> None:
    names = run(7)
    odds = [lm.score("The food was", [" lovely", " horrible"], end=False) for lm in (names["cheerful"], names["lm"])]
    assert odds[0][0] - odds[0][1] > odds[1][0] - odds[1][1]


def test_the_program_gives_an_answer_and_a_reason(run: Any, capsys: Any) -> None:
    run(8)
    answer, reason = ast.literal_eval(capsys.readouterr().out.strip().splitlines()[-1])
    assert answer in (" true", " false") and isinstance(reason, str)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_images_are_bright(run: Any) -> None:
    pytest.importorskip("diffusers")
    names = run(9)
    assert names["result"].expectation(lambda image: image.mean()) > 0.32  # by itself the model makes 0.305 +- 0.005
    assert len(list(Path("bright").iterdir())) == 16 + 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_result_is_read_again(run: Any) -> None:
    pytest.importorskip("matplotlib")
    names = run(10)
    assert names["again"].texts == names["result"].texts and Path("weather.png").stat().st_size > 0
