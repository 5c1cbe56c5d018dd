"""The command line, on a tiny model in a folder and on the demo's model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import feynkac as fk
from feynkac.commands.cli import app, main
from feynkac.commands.options import parse_argument
from feynkac.models.edits import Add, Affine, Direction, Emphasise, save_edits
from feynkac.results.result import Result


@pytest.fixture
def folder(tiny_lm, tmp_path):
    lm = tiny_lm()
    lm.model.generation_config.eos_token_id = 0
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_generate_under_everything_at_once(folder, tmp_path) -> None:
    (tmp_path / "score.py").write_text("def score(text):\n    return 1.0 * text.count('b')\n")
    out = tmp_path / "result.json"
    done = CliRunner().invoke(
        app,
        ["generate", "-m", folder, "-p", "ab", "--regex", "[ab]*", "--reward", f"{tmp_path}/score.py:score", "--scale",
         "2", "-n", "8", "--islands", "2", "--max-tokens", "6", "--seed", "1", "--out", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "log evidence" in done.output and "effective sample size" in done.output
    result = Result.from_json(out)
    assert len(result.samples) == 8 and all(set(text) <= {"a", "b"} for text in result.texts) and result.seed == 1


def test_generate_by_a_law_of_the_arguments_of_generate(folder, tmp_path) -> None:
    """The likeliest token each time, none twice: one text, of probability 1 to any power."""
    out = tmp_path / "result.json"
    law = ["--top-k", "1", "--top-p", "0.9", "--min-p", "0.1", "--repetition-penalty", "1.2"]
    law += ["--no-repeat-ngram-size", "1", "--power", "2", "-n", "4", "--max-tokens", "3", "--seed", "1"]
    done = CliRunner().invoke(app, ["generate", "-m", folder, "-p", "a", *law, "--out", str(out)])
    assert done.exit_code == 0, done.output
    result = Result.from_json(out)
    assert len(set(result.texts)) == 1 and len(set("a" + result.texts[0])) == 1 + len(result.texts[0])
    assert result.log_evidence == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--max-tokens", "0"), ("--particles", "0"), ("--islands", "3"), ("--temperature", "0"), ("--top-p", "2"),
     ("--seed", "-1"), ("--resampler", "best"), ("--ess-threshold", "2"), ("--sweeps", "3"), ("--algorithm", "mcmc")],
)  # fmt: skip
def test_options_that_cannot_be_are_told_before_a_model_is_loaded(option, value) -> None:
    found = CliRunner().invoke(app, ["generate", "-m", "/no/such/model", "-p", "a", option, value])
    name = option.removeprefix("--").replace("-", "_")
    assert isinstance(found.exception, fk.ArgumentError) and name in str(found.exception)


def test_generate_from_files(folder, tmp_path) -> None:
    grammar = tmp_path / "g.lark"
    grammar.write_text('start: ("a" | "b")+', encoding="utf-8-sig")  # a byte order mark is none of its text
    done = CliRunner().invoke(app, ["generate", "-m", folder, "-p", "a", "--grammar", str(grammar), "-n", "4"])
    assert done.exit_code == 0, done.output
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"enum": ["never"]}))
    with pytest.raises(SystemExit):
        run_main("generate", "-m", folder, "-p", "a", "--json-schema", str(schema), "-n", "4")


def test_generate_with_edits_from_files_and_emphasis(folder, tmp_path) -> None:
    """A seed gives the texts that the library gives."""
    lm = fk.CausalLM.from_pretrained(folder)
    direction = Direction({0: torch.linspace(-1, 1, 16), 1: torch.ones(16)})
    direction.save(tmp_path / "d.safetensors")
    affine = Affine(0.5 * torch.eye(16), torch.linspace(-2, 2, 16), layer=1, strength=0.5)
    save_edits(affine, tmp_path / "e.safetensors")
    out = tmp_path / "result.json"
    files = ["--edit", f"{tmp_path}/d.safetensors:-2.5", "--edit", f"{tmp_path}/e.safetensors:2"]
    rest = ["--emphasis", "b", "--emphasis", "a", "--max-tokens", "4", "-n", "2", "--seed", "1", "--out", str(out)]
    edits = Add(direction, strength=-2.5), Affine(affine.matrix, affine.offset, layer=1), Emphasise(["b", "a"])
    task = lm.edited(*edits).prompt("ab", max_tokens=4)
    done = CliRunner().invoke(app, ["generate", "-m", folder, "-p", "ab", *files, *rest])
    assert done.exit_code == 0, done.output
    assert Result.from_json(out).texts == fk.steer(task, particles=2, seed=1).texts


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("nowhere.safetensors", "nowhere.safetensors: there is no such file"),
        ("nowhere.safetensors:2", "nowhere.safetensors: there is no such file"),
        ("d.safetensors:much", "'much' is no strength"),
        ("d.safetensors:nan", "'nan' is no strength"),
        ("m.safetensors:2", "has no strength"),
        ("d.safetensors", "belongs to another model"),
    ],
)
def test_edits_that_cannot_be_laid_on_are_one_line(folder, tmp_path, capsys, monkeypatch, edit, message) -> None:
    monkeypatch.chdir(tmp_path)
    Direction({0: torch.ones(17)}).save("d.safetensors")
    save_edits(Emphasise("a"), "m.safetensors")
    with pytest.raises(SystemExit):
        run_main("generate", "-m", folder, "-p", "a", "--edit", edit)
    assert message in capsys.readouterr().err


def run_main(*arguments: str) -> None:
    before, sys.argv = sys.argv, ["feynkac", *arguments]
    try:
        main()
    finally:
        sys.argv = before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--regex", "("], "regex"),
        (["--reward", "score"], "module:function"),
        (["--reward", "nowhere.py:score"], "nowhere.py:score"),
        (["--json-schema", "nowhere.json"], "cannot read"),
        (["--resampler", "lottery"], "lottery"),
        (["--particles", "0"], "at least 1"),
        (["--at-limit", "stop"], "at_limit"),
        (["--top-p", "2"], "top_p is 2.0"),
        (["--power", "0"], "power(0.0)"),
    ],
)
def test_errors_are_one_line(folder, capsys, arguments, message) -> None:
    with pytest.raises(SystemExit) as stop:
        run_main("generate", "-m", folder, "-p", "a", *arguments)
    shown = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1
    assert [line for line in shown if line.startswith("error: ") and message in line]
    assert not any("Traceback" in line for line in shown)


PROGRAM = """
from __future__ import annotations
from dataclasses import dataclass
import feynkac as fk
from feynkac_test_helper import LETTER

@dataclass
class Settings:
    letter: str = LETTER

@fk.program
def without(p, lm, prompt, banned="b", max_tokens=4):
    text = lm.context(prompt)
    while not text.ended and len(text) < max_tokens:
        p.condition(banned not in p.sample(text.next_token()))
    return str(text)

@fk.program
def coin(p, heads=0.5):
    side = Settings().letter if p.sample(fk.Bernoulli(heads)) else "tails"
    p.factor(0.0 if side == "tails" else -1.0)
    return side

@fk.program
def judged(p, lm, critic, prompt="ab"):
    text, other = lm.context(prompt), critic.context(prompt)
    token = p.sample(text.next_token())
    p.observe(other.next_token(), token)
    return f"{token}, {'one model' if lm is critic else 'two models'}"

def plain(p):
    return 1
"""


@pytest.fixture
def programs(tmp_path):
    (tmp_path / "feynkac_test_helper.py").write_text("LETTER = 'heads'\n")
    (tmp_path / "some.py").write_text(PROGRAM)
    (tmp_path / "broken.py").write_text("def f(:\n")
    return tmp_path


@pytest.mark.parametrize("algorithm", ["smc", "importance", "best_of_n", "beam", "gibbs"])
def test_run_a_program_on_a_model(folder, programs, algorithm) -> None:
    out = programs / "result.json"
    done = CliRunner().invoke(
        app,
        ["run", f"{programs}/some.py:without", "-m", folder, "--arg", "prompt=ab", "-a", "max_tokens=2", "-n", "4",
         "--algorithm", algorithm, "--seed", "3", "--out", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result = Result.from_json(out)
    assert {text for text, w in zip(result.texts, result.weights, strict=True) if w} <= {
        "",
        "a",
        "e",
        "aa",
        "ae",
        "ea",
        "ee",
    }
    assert result.seed == 3 and "log evidence" in done.output


def test_run_a_program_on_two_models(folder, tiny_lm, programs) -> None:
    again = programs / "other"
    shutil.copytree(folder, again)
    for critic, shown in ((str(again), "two models"), (f"{folder}/", "one model")):
        done = CliRunner().invoke(
            app,
            ["run", f"{programs}/some.py:judged", "-m", folder, "-m", f"critic={critic}", "-n", "4", "--seed", "0"],
        )
        assert done.exit_code == 0, done.output
        assert shown in done.output
    named = ["run", f"{programs}/some.py:judged", "-m", f"critic={folder}", "--model", f"lm={folder}", "-n", "2"]
    assert CliRunner().invoke(app, named).exit_code == 0


def test_gibbs_from_the_shell(folder, tmp_path) -> None:
    out = tmp_path / "result.json"
    done = CliRunner().invoke(
        app,
        ["generate", "-m", folder, "-p", "a", "--regex", "[ab]*", "-n", "4", "--max-tokens", "3", "--algorithm",
         "gibbs", "--sweeps", "3", "--out", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert len(Result.from_json(out).samples) == 2 * 4
    help_ = CliRunner().invoke(app, ["generate", "--help"]).output
    assert all(name in help_ for name in ("smc", "importance", "best_of_n", "beam", "gibbs", "--sweeps"))


def test_run_a_program_without_a_model(programs) -> None:
    done = CliRunner().invoke(
        app, ["run", f"{programs}/some.py:coin", "-a", "heads=1", "-n", "6", "--islands", "2", "--seed", "0"]
    )
    assert done.exit_code == 0, done.output
    assert "heads" in done.output and "log evidence -1.00 nats" in done.output


def test_run_a_recipe(folder) -> None:
    done = CliRunner().invoke(
        app,
        ["run", "feynkac.programs.recipes:intersect", "-m", folder, "-a", 'prompts=["a", "b"]', "-a", "max_tokens=2",
         "-n", "4", "--seed", "0"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", 2), ('"2"', "2"), ("[1, null]", [1, None]), ("a=b", "a=b"), ("NaN", "NaN"), ("-Infinity", "-Infinity")],
)
def test_an_argument_is_json_or_else_a_string(text, value) -> None:
    assert parse_argument(f"key={text}") == ("key", value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py:f"], "nowhere.py:f"),
        (["{}/some.py"], "module:function"),
        (["{}/some.py:missing"], "missing"),
        (["{}/some.py:plain"], "no program"),
        (["{}/broken.py:f"], "broken.py"),
        (["{}/some.py:without"], "--model"),
        (["{}/some.py:without", "-m", "nowhere"], "missing a required argument: 'prompt'"),
        (["{}/some.py:without", "-m", "nowhere", "-a", "prompt=a"], "nowhere"),
        (["{}/some.py:coin", "-m", "nowhere"], "leave --model out"),
        (["{}/some.py:judged", "-m", "a", "-m", "b"], "the argument lm is given twice"),
        (["{}/some.py:judged", "-m", "a", "-a", "lm=b"], "the argument lm is given twice"),
        (["{}/some.py:judged", "-m", "judge=a"], "no argument judge; name one of its arguments, as in --model lm="),
        (["{}/some.py:judged", "-m", "a"], "'critic'; give arguments as --arg key=value, and models as --model name="),
        (["{}/some.py:judged", "-m", "p=a"], "no argument p;"),
        (["{}/some.py:coin", "--sweeps", "4"], "algorithm='gibbs' only"),
        (["{}/some.py:coin", "-a", "tails=1"], "tails"),
        (["{}/some.py:coin", "-a", "heads"], "key=value"),
        (["{}/some.py:coin", "-a", "heads=0", "-a", "heads=1"], "--arg 'heads=1': heads is given twice; leave one out"),
        (["{}/some.py:coin", "-a", "heads=2"], "between 0 and 1"),
        (["{}/some.py:coin", "--algorithm", "lottery"], "lottery"),
    ],
)
def test_errors_of_run_are_one_line(programs, capsys, arguments, message) -> None:
    with pytest.raises(SystemExit) as stop:
        run_main("run", *(argument.format(programs) for argument in arguments))
    shown = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1
    assert [line for line in shown if line.startswith("error: ") and message in line]
    assert not any("Traceback" in line for line in shown)


def test_the_version_is_told() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0 and done.output == f"feynkac {fk.__version__}\n"


def test_feynkac_without_a_command_shows_its_help() -> None:
    done = CliRunner().invoke(app, [])
    assert done.exit_code in (0, 2) and all(
        name in done.output for name in ("demo", "generate", "run", "diffuse", "doctor", "--version")
    )


def test_python_runs_the_command_line_as_a_module() -> None:
    command = [sys.executable, "-P", "-m", "feynkac", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"feynkac {fk.__version__}\n"


@pytest.mark.parametrize(("words", "found"), [("feynkac gen", "generate"), ("feynkac generate --max", "--max-tokens")])
def test_the_shell_completes_commands_and_options(words, found) -> None:
    """What the script of `--install-completion` asks for, at each press of the tab key."""
    given = {"_FEYNKAC_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    command = [sys.executable, "-P", "-c", "from feynkac.commands.cli import app; app(prog_name='feynkac')"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | given)
    assert found in done.stdout.split(), done.stderr


def test_a_model_named_demo_is_the_demos(monkeypatch, tiny_lm) -> None:
    asked = []
    monkeypatch.setattr(fk.CausalLM, "demo", lambda **given: asked.append(given) or tiny_lm())
    done = CliRunner().invoke(app, ["generate", "-m", "demo", "-p", "a", "-n", "2", "--max-tokens", "2"])
    assert done.exit_code == 0 and asked == [{"device": None}], done.output
    done = CliRunner().invoke(app, ["generate", "-m", "demo", "-p", "a", "-n", "2", "--dtype", "bfloat16"])
    assert asked[1:] == [{"dtype": "bfloat16", "device": None}]


@pytest.mark.slow
def test_demo_runs(smollm2, tmp_path) -> None:
    done = CliRunner().invoke(app, ["demo", "-n", "8", "--out", str(tmp_path / "demo.html")])
    assert done.exit_code == 0, done.output
    assert done.output.count("log evidence") == 3 and "plain sampling" in done.output
    assert (tmp_path / "demo.html").exists()


def test_the_page_of_the_demo_is_refused_before_it_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("feynkac.steering.steer.steer", lambda *_, **__: pytest.fail("it ran"))
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo.json")])
    assert isinstance(done.exception, fk.ArgumentError) and "its ending must be .html" in str(done.exception)
