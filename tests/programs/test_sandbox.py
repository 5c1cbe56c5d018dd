"""Code that a model wrote: what it printed, what it complained of, and which limit ended it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial

import pytest

from feynkac.base.errors import ArgumentError
from feynkac.programs.recipes.sandbox import Ran, run_python

run = partial(run_python, timeout=60.0)
"""With time enough on a busy machine."""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="its limits are those of POSIX")


def test_what_a_program_prints_is_its_output() -> None:
    assert run("print(6 * 7)") == Ran("42\n", "")
    assert run("print('é')") == Ran("é\n", "")


def test_no_code_prints_nothing() -> None:
    assert run("") == Ran("", "")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("print(1)\n1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(): f()\nf()", "RecursionError"),
        ("Here is the code:", "SyntaxError"),
        ("x = \0", "SyntaxError"),
        ("raise SystemExit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 11)", "Segmentation fault"),
    ],
)
def test_a_program_that_fails_says_why(code: str, error: str) -> None:
    assert run(code).error.startswith(error)


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(60)"])
def test_an_endless_program_is_stopped(code: str) -> None:
    assert run_python(code, timeout=0.5) == Ran("", "it took more than 0.5 s")


def test_what_was_printed_before_the_time_was_over_is_kept() -> None:
    code = "print('begun', flush=True)\nwhile True: pass"
    runs = (run_python(code, timeout=2.0**n) for n in range(7))  # a busy machine takes its time to begin
    assert next(ran.output for ran in runs if ran.output) == "begun\n"


@pytest.mark.skipif(sys.platform != "linux", reason="macOS may not keep this limit")
@pytest.mark.parametrize("code", ["x = ' ' * 2**33", "x = []\nwhile True: x.append(' ' * 2**20)"])
def test_memory_ends_a_program_that_wants_too_much(code: str) -> None:
    assert run(code, memory=256).error == "MemoryError"


@pytest.mark.parametrize("code", ["while True: print('spam')", "import sys\nwhile True: sys.stdout.write('s' * 10**6)"])
def test_a_flood_of_output_is_cut(code: str) -> None:
    ran = run(code, output=1000)
    assert len(ran.output) == 1000 and ran.error == "it printed more than 1000 bytes"


def test_a_flood_of_complaints_is_cut() -> None:
    ran = run("import sys\nwhile True: sys.stderr.write('spam\\n')", output=1000)
    assert ran.output == "" and len(ran.error) <= 1000


def test_a_file_that_is_too_large_is_not_written() -> None:
    assert "File too large" in run("open('a', 'wb').write(b'x' * 10**6)").error


def test_a_program_gets_no_environment_no_input_and_an_empty_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    code = "import os, sys; print('SECRET' in os.environ, os.listdir(), repr(sys.stdin.read()))"
    assert run(code).output == "False [] ''\n"


def test_nothing_of_a_program_is_left(tmp_path) -> None:
    """Neither its files nor a process that it has started, where it may start one."""
    late = f"import time; time.sleep(1); open({str(tmp_path / 'late')!r}, 'w')"
    ran = run(f"import os\nif os.fork() == 0:\n    {late}\nprint(os.getcwd())")
    time.sleep(1.5)
    assert not list(tmp_path.iterdir())
    assert ran.error.startswith("BlockingIOError") or not os.path.exists(ran.output.strip())


@pytest.mark.parametrize("limits", [{"timeout": 0.0}, {"timeout": float("nan")}, {"memory": 0}, {"output": 1.5}])
def test_limits_are_positive(limits: dict) -> None:
    with pytest.raises(ArgumentError, match=next(iter(limits))):
        run_python("print(1)", **limits)


def test_limits_that_are_there_already_are_kept() -> None:
    """A hard limit can only be lowered: one that is below ours is no error."""
    code = "from feynkac.programs.recipes.sandbox import run_python; print(run_python('print(1)', timeout=60))"
    inner = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)); {code}"
    done = subprocess.run([sys.executable, "-c", inner], capture_output=True, text=True, check=True)
    assert done.stdout == "Ran(output='1\\n', error='')\n"
