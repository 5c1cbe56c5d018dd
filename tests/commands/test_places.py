"""What a name on the command line brings in: the file or module that is named, what it imports, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from feynkac.base.errors import ArgumentError
from feynkac.commands import places
from feynkac.commands.options import find_function

HOSTILE = (
    "json",
    "numpy",
    "numba",
    "torch",
    "transformers",
    "triton",
    "rdkit",
    "flash_attn",
    "typer",
    "feynkac",
    "tqdm",
)
MARK = """
with open({marks!r}, "a") as file:
    file.write("{name} ")
LETTER = "x"
"""
PROGRAM = """
import json
import numpy
import feynkac as fk
from {helper} import LETTER

@fk.program
def coin(p):
    import {late}
    return LETTER if p.sample(fk.Bernoulli(0.5)) else {late}.LETTER
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of modules that have the names of others, each of which would leave a mark."""
    for name in HOSTILE:
        (tmp_path / f"{name}.py").write_text(MARK.format(marks=str(tmp_path / "marks"), name=name))
    (tmp_path / "beside_one.py").write_text("LETTER = 'heads'\n")
    (tmp_path / "beside_two.py").write_text("LETTER = 'tails'\n")
    (tmp_path / "some.py").write_text(PROGRAM.format(helper="beside_one", late="beside_two"))
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "__init__.py").write_text("")
    (tmp_path / "box" / "inner.py").write_text(PROGRAM.format(helper="beside_one", late="box.names"))
    (tmp_path / "box" / "names.py").write_text("from beside_two import LETTER\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, places.Beside)]
    for name in ("some", "beside_one", "beside_two", "box", "box.inner", "box.names", "file_some"):
        sys.modules.pop(name, None)


def marks(folder: Path) -> str:
    file = folder / "marks"
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize("name", ["some.py:coin", "some:coin", "box.inner:coin"])
def test_a_folder_of_other_modules_names_shadows_none_of_them(folder, name) -> None:
    code = "from feynkac.commands.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "run", name, "-n", "4", "--seed", "0"],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "heads" in done.stdout and "tails" in done.stdout and marks(folder) == ""


def test_the_folder_shadows_nothing_of_python_m_feynkac(folder) -> None:
    (folder / "feynkac.py").unlink()  # which Python itself would run in its place
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "feynkac", "run", "some.py:coin", "-n", "4", "--seed", "0"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "heads" in done.stdout and marks(folder) == ""


def test_an_optional_module_that_a_library_tries_is_not_taken_from_the_folder(folder) -> None:
    """`rdkit` or `flash_attn` may be missing: a library that looks for one must not find the folder's."""
    find_function("some.py:coin")
    with pytest.raises(ImportError):
        __import__("flash_attn")  # by this file, which lies elsewhere
    assert marks(folder) == ""


def test_what_the_file_itself_names_is_taken_where_nothing_installed_has_the_name(folder) -> None:
    (folder / "asks.py").write_text("import flash_attn\nLETTER = flash_attn.LETTER\n")
    assert find_function("asks.py:LETTER") == "x" and marks(folder) == "flash_attn "
    sys.modules.pop("flash_attn")
    sys.modules.pop("file_asks")


def test_an_environment_that_is_kept_in_the_folder_is_none_of_its_code(folder, monkeypatch) -> None:
    installed = folder / ".venv" / "site"
    installed.mkdir(parents=True)
    (installed / "library.py").write_text(
        "try:\n    import flash_attn\nexcept ImportError:\n    flash_attn = None\nFOUND = flash_attn\n"
    )
    monkeypatch.syspath_prepend(str(installed))
    (folder / "uses.py").write_text("from library import FOUND\n")
    assert find_function("uses.py:FOUND") is None and marks(folder) == ""
    sys.modules.pop("library")
    sys.modules.pop("file_uses")


def test_a_file_that_is_named_twice_is_loaded_once_and_leaves_the_path_alone(folder) -> None:
    before = list(sys.path)
    assert find_function("some.py:coin") is find_function(f"{folder}/some.py:coin")
    find_function("some:coin")
    assert sys.path == before and len([each for each in sys.meta_path if isinstance(each, places.Beside)]) == 1


def test_a_file_that_raises_is_loaded_anew_when_it_is_mended(folder) -> None:
    (folder / "broken.py").write_text("import beside_one\n1 / 0\n")
    with pytest.raises(ArgumentError, match=r"ZeroDivisionError: division by zero \(line 2 of"):
        find_function("broken.py:f")
    (folder / "broken.py").write_text("f = 'a much longer file than before'\n")
    assert find_function("broken.py:f").startswith("a much")
    sys.modules.pop("file_broken")


@pytest.mark.parametrize(
    "name", ["", ":", "f", "some.py:", ":f", "no/such.py:f", "no.such:f", "a\0b.py:f", "..:f", "a b:f"]
)
def test_what_names_nothing_is_refused_in_one_line(folder, name) -> None:
    with pytest.raises(ArgumentError) as caught:
        find_function(name)
    assert "\n" not in str(caught.value)
