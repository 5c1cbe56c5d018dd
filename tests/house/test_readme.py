"""The README's five minutes, typed as they stand."""

from __future__ import annotations

import re
import shlex
from math import log
from pathlib import Path

import pytest
from typer.testing import CliRunner

import feynkac as fk
from feynkac.commands.cli import app

README = Path(__file__).parents[2] / "README.md"


def run(section: str) -> tuple[dict, int]:
    """The names that the Python of a section of the README leaves behind, and the number of its blocks."""
    text = README.read_text(encoding="utf-8").split(f"# {section}\n")[1].split("\n## ")[0]
    blocks, names = re.findall(r"```python\n(.*?)```", text, re.DOTALL), {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    return names, len(blocks)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder to work in that has nothing of the repository."""
    for package in ("diffusers", "matplotlib", "sklearn"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_begins_with_what_installs_it_and_lines_that_run(smollm2, capsys) -> None:
    assert README.read_text(encoding="utf-8").split("\n")[:4] == ["# feynkac", "", "    pip install feynkac", ""]
    names, blocks = run("feynkac")
    assert blocks == 1 and "log evidence" in capsys.readouterr().out
    assert all(re.fullmatch(r" [A-Z][a-z]+ \d{1,2}, \d{4}\.", text) for text in names["result"].posterior())


def test_the_first_five_minutes(lm_for, monkeypatch, capsys) -> None:
    """On a small model, which knows nothing; as pages of docs/ do."""
    lm = lm_for(README.read_text(encoding="utf-8"))
    monkeypatch.setattr(fk.CausalLM, "demo", lambda: lm)
    names, blocks = run("The first five minutes")
    assert blocks >= 5
    assert "log evidence" in capsys.readouterr().out
    assert len(names["two"].samples) == 16


@pytest.mark.slow
def test_the_first_five_minutes_with_the_demos_model(smollm2, capsys) -> None:
    names, _ = run("The first five minutes")
    assert "log evidence" in capsys.readouterr().out
    assert names["result"].log_evidence > -50 and len(names["two"].samples) == 16


def test_the_shell_line_is_a_command(smollm2) -> None:
    line = re.search(r"`feynkac (generate[^`]*)`", README.read_text(encoding="utf-8"))
    assert line is not None
    done = CliRunner().invoke(app, [*shlex.split(line.group(1)), "--max-tokens", "4"])
    assert done.exit_code == 0, done.output


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_diffusion_in_five_minutes(elsewhere) -> None:
    names, blocks = run("Diffusion in five minutes")
    assert blocks >= 3 and {"bright.png", "whole.png"} <= {file.name for file in elsewhere.iterdir()}
    assert names["result"].expectation(lambda image: image.mean()) > 0.32  # by itself the model makes 0.305 +- 0.005
    # Of 1,024 images that the model made by itself 0.124 were threes, with a standard error of 7 %.
    assert abs(names["threes"].log_evidence - log(0.124)) < 0.4
    assert len(list((elsewhere / "threes").iterdir())) == 64 + 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_shell_line_of_diffusion_is_a_command(elsewhere) -> None:
    line = re.search(r"`feynkac (diffuse[^`]*)`", README.read_text(encoding="utf-8"))
    assert line is not None
    done = CliRunner().invoke(app, [*shlex.split(line.group(1)), "--steps", "5", "--seed", "0"])
    assert done.exit_code == 0, done.output
    assert (elsewhere / "grid.png").exists()


def test_pictures_of_the_readme_are_there_and_small() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README.read_text(encoding="utf-8"))
    assert pictures and all((README.parent / picture).stat().st_size < 150_000 for picture in pictures)
