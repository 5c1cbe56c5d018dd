"""The command line where something is wrong, or the run is stopped: one line, what there is, and the exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from feynkac.results.result import Result
from tests.commands.test_cli import folder as folder, run_main

SLOW = """
import signal
import time
from pathlib import Path

import feynkac as fk
from feynkac.programs import Bernoulli

@fk.program
def slow(p, catches=False, steps=400):
    for i in range(steps):
        p.sample(Bernoulli(0.5))
        if i == 2:  # both particles are in their third step
            Path(__file__).with_name("begun").touch()
        try:
            time.sleep(0.02)
        except BaseException:
            if not catches:
                raise
    return {"steps": i}

def stop_at(call, calls=[]):
    calls.append(call)
    if len(calls) == call:
        signal.raise_signal(signal.SIGTERM)

@fk.program
def swallowing(p):
    for i in range(6):
        p.sample(Bernoulli(0.5))
        swallows("")

def swallows(text):
    try:
        stop_at(6)
    except:
        pass
    return 0.0

def hangs_up(text):
    if len(text) == 2:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
    return 0.0

def raises(text):
    raise RuntimeError("many\\nlines\\x1b[31m")

def late(text):
    if len(text) > 2:
        raise RuntimeError("late")
    return 0.0
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "syntax.py").write_text("def f(:\n")
    (tmp_path / "raises.py").write_text("import os\n\n1 / 0\n")
    (tmp_path / "exits.py").write_text("raise SystemExit('no')\n")
    return tmp_path


def stopped(file, number: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`feynkac run slow.py:slow`, stopped in mid-run."""
    code = "import sys; from feynkac.commands.cli import main; print('begun', flush=True); main()"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code, "run", f"{file}/slow.py:slow", "-n", "2", "--seed", "0", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    while not (file / "begun").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess([], process.returncode, out, err)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("catches", ["false", "true"])
def test_a_run_that_is_stopped_keeps_what_there_is_and_says_so(file, number, code, catches) -> None:
    out = file / "result.json"
    done = stopped(file, number, "--out", str(out), "-a", f"catches={catches}")
    assert done.returncode == code and "stopped after step" in done.stdout and "Traceback" not in done.stderr
    result = Result.from_json(out)
    assert not result.complete and len(result.samples) == 2


@pytest.mark.parametrize("command", ["generate", "run"])
@pytest.mark.parametrize("algorithm", ["smc", "gibbs"])
def test_a_signal_that_a_reward_swallows_stops_the_run_at_its_step(folder, file, capsys, command, algorithm) -> None:
    out = file / "result.json"
    model = ["-m", folder, "-p", "a", "--reward", f"{file}/slow.py:swallows", "--at-limit", "end", "--max-tokens", "6"]
    arguments = model if command == "generate" else [f"{file}/slow.py:swallowing"]
    with pytest.raises(SystemExit) as stop:
        run_main(command, *arguments, "-n", "4", "--seed", "0", "--algorithm", algorithm, "--out", str(out))
    said = capsys.readouterr()
    assert stop.value.code == 143 and "stopped after step" in said.out and "error" not in said.err
    result = Result.from_json(out)
    assert not result.complete and len(result.history.ess) < 6


@pytest.mark.parametrize(("heard", "code"), [(lambda *_: None, 129), (signal.SIG_IGN, 0)])
def test_a_terminal_that_is_closed_is_one_signal_however_often_it_comes(folder, file, heard, code) -> None:
    """Under `nohup`, which ignores it, the run goes on."""
    out = file / "result.json"
    before = signal.signal(signal.SIGHUP, heard)
    try:
        with pytest.raises(SystemExit) as stop:
            run_main(
                "generate", "-m", folder, "-p", "a", "--at-limit", "end", "--max-tokens", "3", "-n", "2", "--seed", "0",
                "--reward", f"{file}/slow.py:hangs_up", "--out", str(out),
            )  # fmt: skip
        assert signal.getsignal(signal.SIGHUP) is heard
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (stop.value.code or 0) == code
    assert Result.from_json(out).complete == (code == 0)


@pytest.mark.parametrize(
    ("fault", "said"),
    [(BrokenPipeError(32, "Broken pipe"), ""), (OSError(28, "No space left"), "error: cannot write what came out")],
)
def test_files_are_written_whatever_becomes_of_the_terminal(folder, file, capsys, monkeypatch, fault, said) -> None:
    def show(*args: object) -> None:
        raise fault

    monkeypatch.setattr(Result, "show", show)
    out = file / "result.json"
    with pytest.raises(SystemExit) as stop:
        run_main("generate", "-m", folder, "-p", "a", "--max-tokens", "2", "-n", "2", "--seed", "0", "--out", str(out))
    assert stop.value.code == 1 and len(Result.from_json(out).samples) == 2
    told = capsys.readouterr().err
    assert said in told and bool(said) == ("error" in told)


def test_an_output_that_the_shell_has_closed_is_none(folder, file, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    out = file / "result.json"
    with pytest.raises(SystemExit) as stop:
        run_main("generate", "-m", folder, "-p", "a", "--max-tokens", "2", "-n", "2", "--seed", "0", "--out", str(out))
    assert not stop.value.code and out.exists()


def test_a_run_that_is_stopped_before_its_first_step_says_so(capsys, monkeypatch) -> None:
    def interrupt(*args: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("feynkac.commands.run._find_program", interrupt)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        run_main("run", "x.py:y")
    assert stop.value.code == 143 and "stopped before there was a result" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("out", "told"),
    [("missing/folder/x.json", "there is no folder"), (".", "is a folder"), ("locked/x.json", "permission denied"),
     ("locked.json", "permission denied")],
)  # fmt: skip
def test_out_is_checked_before_the_run(file, capsys, monkeypatch, out, told) -> None:
    (file / "locked").mkdir()
    (file / "locked.json").write_text("")
    # As it is where the user is not root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK or "locked" not in str(path))
    with pytest.raises(SystemExit) as stop:
        run_main("run", f"{file}/slow.py:slow", "--out", str(file / out))
    shown = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1 and len(shown) == 1 and told in shown[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--dtype", "float99"], "there is no dtype 'float99'"),
        (["--dtype", "int8"], "there is no dtype 'int8'"),
        (["--device", "nowhere"], "cannot move the model to 'nowhere'"),
        (["--device", "meta"], "meta"),
        (["--device", "cuda:99"], "cannot move the model to 'cuda:99'"),
        (["--reward", "{file}/syntax.py:f"], "SyntaxError"),
        (["--reward", "{file}/raises.py:f"], "ZeroDivisionError: division by zero (line 3 of"),
        (["--reward", "{file}/exits.py:f"], "SystemExit: no"),
        (["--reward", "{file}/slow.py:missing"], "missing"),
        (["--reward", "no.such.module:f"], "No module named 'no'"),
        (["--reward", "{file}/slow.py:raises"], "raised RuntimeError: many lines\\x1b[31m"),
        (["-m", "{file}/cut"], "cannot load a language model"),
        (["-m", "{file}"], "cannot load a language model"),
        (["--max-tokens", "0"], "max_tokens"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(folder, file, capsys, arguments, told) -> None:
    cut = file / "cut"
    if "{file}/cut" in arguments:
        os.system(f"cp -r {folder} {cut}")
        weights = cut / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SystemExit) as stop:
        run_main("generate", "-m", folder, "-p", "a", *(each.format(file=file) for each in arguments))
    shown = capsys.readouterr().err
    assert stop.value.code in (1, 2) and told in shown and "Traceback" not in shown and "\x1b" not in shown
    if stop.value.code == 1:
        assert len([line for line in shown.splitlines() if told in line and line.startswith("error: ")]) == 1


def test_what_there_is_when_an_error_comes_is_written_too(folder, file, capsys) -> None:
    out = file / "result.json"
    with pytest.raises(SystemExit) as stop:
        run_main("generate", "-m", folder, "-p", "a", "--reward", f"{file}/slow.py:late", "--out", str(out), "-n", "16",
                 "--seed", "1")  # fmt: skip
    shown = capsys.readouterr()
    assert stop.value.code == 1 and "late" in shown.err and "log evidence" in shown.out
    assert len(json.loads(out.read_text())["samples"]) == 16


@pytest.mark.parametrize(
    ("out", "told"),
    [
        (
            ["result.txt"],
            "--out result.txt: its ending must be .json (all of the result), .html (an interactive page) or one of",
        ),
        (["result"], "its ending must be .json"),
        (["a.json", "./a.json"], "--out a.json is given twice"),
        (["a.json", "missing/a.png"], "--out missing/a.png: there is no folder missing"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "run", "diffuse", "recipe"])
def test_out_means_the_same_to_every_command_and_is_checked_before_the_run(
    file, capsys, monkeypatch, command, out, told
) -> None:
    from feynkac.programs.recipes.diffusion import __main__ as recipes

    monkeypatch.chdir(file)
    monkeypatch.setattr("feynkac.steering.steer.steer", lambda *_, **__: pytest.fail("it ran"))
    given = [part for each in out for part in ("--out", each)]
    begun = {
        "generate": ["generate", "-m", "nowhere", "-p", "a"], "run": ["run", "slow.py:slow"],
        "diffuse": ["diffuse", "nowhere", "--reward", "slow.py:raises"],
    }  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        recipes.main(["of-class", "nowhere", *given]) if command == "recipe" else run_main(*begun[command], *given)
    shown = capsys.readouterr().err
    assert stop.value.code == 1 and shown.startswith("error: ") and told in shown.replace("PosixPath", "")


def test_out_writes_the_result_its_picture_and_its_page(folder, file, capsys) -> None:
    pytest.importorskip("matplotlib")
    given = ["--out", str(file / "a.svg"), "--out", str(file / "a.json"), "--out", str(file / "a.html")]
    with pytest.raises(SystemExit) as stop:
        run_main("generate", "-m", folder, "-p", "a", "-n", "4", "--max-tokens", "2", *given)
    said = capsys.readouterr().out
    assert stop.value.code == 0 and f"wrote {file / 'a.svg'}, {file / 'a.json'}" in said.replace("\n", "")
    assert len(Result.from_json(file / "a.json").samples) == 4 and "<svg" in (file / "a.svg").read_text()
    assert (file / "a.html").read_text().startswith("<!doctype html>")


def test_a_picture_that_nothing_can_draw_is_refused_before_the_run(file, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("feynkac.steering.steer.steer", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(SystemExit):
        run_main("run", f"{file}/slow.py:slow", "--out", f"{file}/a.png")
    assert "pip install 'feynkac[plot]'" in capsys.readouterr().err
