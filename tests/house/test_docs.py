"""The pages of docs/: every block of code runs, links lead somewhere, and what is public is told of."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer

import feynkac as fk
from feynkac.commands.cli import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# What the generic tests leave to others: its own test, and one that needs a cluster.
ELSEWHERE = {"methods.md", "clusters.md", "tasks.md"}
PAGES = sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))
RUN = [page for page in PAGES if page not in ELSEWHERE and "```python\n" in (DOCS / page).read_text(encoding="utf-8")]
REAL = {"index.md", "tour.md"}
"""Pages that run on the demo's model at once; the others do by `make test-slow`, and on a small random model here."""
FOR_AUTHORS = {
    "Activation", "Activations", "Anatomy", "Change", "Edit", "Features", "Mechanism", "Prepared", "Probe", "Scope",
    "Where",
}  # fmt: skip
"""Of edits: what is derived from, or given back."""
PUBLIC = (
    "feynkac", "feynkac.potentials", "feynkac.potentials.diffusion", "feynkac.potentials.discrete", "feynkac.programs",
    "feynkac.programs.recipes", "feynkac.programs.recipes.diffusion", "feynkac.programs.compat.llamppl",
    "feynkac.models.edits", "feynkac.models.diffusion", "feynkac.models.discrete",
)  # fmt: skip


def list_blocks(page: str, language: str) -> list[str]:
    """The blocks of a page in a language, without those that quote another library."""
    found = BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    return [code for name, title, code in found if name == language and not title]


def list_notebooks() -> list[str]:
    return sorted(p.relative_to(DOCS).as_posix() for p in (DOCS / "notebooks").glob("*.ipynb"))


def list_cells(notebook: str) -> list[str]:
    cells = json.loads((DOCS / notebook).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def real(smollm2: Path) -> fk.CausalLM:
    return fk.CausalLM.from_pretrained(str(smollm2))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in that has the repository's trained models where the pages say."""
    os.symlink(ROOT / "benchmarks", tmp_path / "benchmarks")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def open_models(monkeypatch: pytest.MonkeyPatch, lm: fk.CausalLM) -> None:
    """Make the model of the pages, and any server, stand for `lm`."""
    monkeypatch.setattr(fk.CausalLM, "demo", lambda: lm)
    monkeypatch.setattr(fk, "ServedLM", lambda base_url, model: lm, raising=False)


def run_all(blocks: list[str], where: str) -> dict[str, Any]:
    """The names that blocks leave behind, run one after the other; `lm.model` stays as it is."""
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        tree = ast.parse(block, where)
        exec(compile(tree, where, "exec"), names)
    return names


def needs(code: str) -> None:
    """Skip where what a page needs is not installed."""
    wanted = {"fk.Diffusion": ("diffusers", "sklearn"), "pydantic": ("pydantic",), ".plot(": ("matplotlib",)}
    for word, packages in wanted.items():
        for package in packages if word in code else ():
            pytest.importorskip(package)


QUIET = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@QUIET
@pytest.mark.parametrize("page", RUN)
def test_every_block_of_a_page_runs(
    page: str, request: Any, lm_for: Any, folder: Path, monkeypatch: Any, capsys: Any
) -> None:
    blocks = list_blocks(page, "python")
    code = "\n".join(blocks)
    needs(code)
    open_models(monkeypatch, request.getfixturevalue("real") if page in REAL else lm_for(code))
    run_all(blocks, page)


@QUIET
@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(set(RUN) - REAL))
def test_every_block_runs_on_the_demos_model(page: str, real: Any, folder: Path, monkeypatch: Any, capsys: Any) -> None:
    needs("\n".join(list_blocks(page, "python")))
    open_models(monkeypatch, real)
    run_all(list_blocks(page, "python"), page)


@QUIET
@pytest.mark.parametrize("notebook", list_notebooks())
def test_every_notebook_runs(notebook: str, lm_for: Any, folder: Path, monkeypatch: Any, capsys: Any) -> None:
    """On a small model; `make docs` runs them in kernels, on the demo's."""
    cells = list_cells(notebook)
    code = "\n".join(cells)
    needs(code)
    open_models(monkeypatch, lm_for(code))
    run_all(cells, notebook)


@pytest.mark.parametrize("notebook", list_notebooks())
def test_notebooks_hold_no_outputs(notebook: str) -> None:
    """They are run when the site is built; outputs in git would only grow old."""
    cells = json.loads((DOCS / notebook).read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_code_of_other_libraries_is_python() -> None:
    titled = [(p, *b) for p in PAGES for b in BLOCK.findall((DOCS / p).read_text(encoding="utf-8")) if b[1].strip()]
    assert {page for page, *_ in titled} == {p for p in PAGES if p.startswith("coming-from/")}
    for page, language, title, code in titled:
        assert language == "python" and re.fullmatch(r' title="[\w -]+"', title), page
        compile(code, page, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


# --- shell ---------------------------------------------------------------------------------------------------------

LINES = [(page, line) for page in PAGES for block in list_blocks(page, "shell") for line in block.splitlines() if line]


@pytest.mark.parametrize("line", [line for _, line in LINES])
def test_every_line_of_a_shell_is_a_command(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "feynkac":
        group = typer.main.get_command(app)
        assert isinstance(group, click.Group) or hasattr(group, "commands")
        command = group.commands[words[1]]  # pyright: ignore[reportAttributeAccessIssue]
        command.make_context(words[1], words[2:])
    elif words[:2] == ["pip", "install"]:
        extras = re.findall(r"feynkac\[([\w,]+)\]", line)
        assert "feynkac" in line and all(f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text() for extra in extras)
    else:
        assert words[0] == "make" and f"\n{words[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")


# --- links ---------------------------------------------------------------------------------------------------------

PROSE = {page: BLOCK.sub("", (DOCS / page).read_text(encoding="utf-8")) for page in PAGES}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", PROSE[page]):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (DOCS / page).parent / path if path else DOCS / page
        assert found.exists(), target
        if anchor:
            assert anchor in list_anchors(found), target


def list_anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_every_page_stands_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    listed = re.findall(r"([\w./-]+\.(?:md|ipynb))$", nav, re.MULTILINE)
    assert len(listed) == len(set(listed)) and {*PAGES, *list_notebooks()} <= set(listed)
    assert all((DOCS / page).exists() or (ROOT / page).exists() for page in listed)


# --- what is public ------------------------------------------------------------------------------------------------


def find(path: str) -> Any:
    """The object that a dotted path names; of a function and its module of one name, the function."""
    home, _, name = path.rpartition(".")
    found = getattr(find(home), name, None) if home else None
    return importlib.import_module(path) if found is None else found


def list_public() -> list[str]:
    return [f"{home}.{name}" for home in PUBLIC for name in find(home).__all__ if name != "__version__"]


def test_every_public_name_stands_in_the_reference() -> None:
    text = "\n".join((DOCS / page).read_text(encoding="utf-8") for page in PAGES if page.startswith("reference/"))
    told = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    assert len(told) == len(set(told))
    known = {id(find(path)) for path in told}
    assert [path for path in list_public() if id(find(path)) not in known] == []


def test_every_public_name_has_a_docstring() -> None:
    """A value, such as a type's name, is told of by the line below it."""
    assert [path for path in list_public() if callable(find(path)) and not inspect.getdoc(find(path))] == []


def test_every_recipe_potential_and_edit_has_lines_that_run() -> None:
    """On a how-to page or among the published methods, and so in the tests above."""
    pages = [page for page in PAGES if page.startswith("how-to/")] + ["methods.md"]
    shown = "\n".join(block for page in pages for block in list_blocks(page, "python"))
    homes = ("feynkac", "feynkac.potentials.diffusion", "feynkac.potentials.discrete", "feynkac.programs.recipes",
             "feynkac.programs.recipes.diffusion", "feynkac.models.edits")  # fmt: skip
    names = {name for home in homes for name in find(home).__all__ if name[0].islower() or home.endswith("edits")}
    missing = {name for name in names if not re.search(rf"\b{name}\(|\.{name}\b", shown)}
    # `check` has pages of its own, and an adapter is a folder that only its owner has.
    assert missing - FOR_AUTHORS == {"check", "Adapter"}


# --- pictures ------------------------------------------------------------------------------------------------------


def test_pictures_are_those_that_the_script_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw: Any = {"__name__": "draw"}
    exec(compile((DOCS / "pictures" / "draw.py").read_text(encoding="utf-8"), "draw.py", "exec"), draw)
    committed = {file.name for file in (DOCS / "pictures").glob("*.svg")}
    assert committed == set(draw["PICTURES"])
    assert all(f"pictures/{name})" in PROSE["ideas.md"] for name in committed)
    shares = draw["measure_masking"]()
    assert shares["the model given x"] == pytest.approx(1 / 11)
    # By the delta method the weighted share of 1,024 draws has a standard error of 0.008.
    assert shares["masking alone"] > 0.85 and abs(shares["weighted particles"] - 1 / 11) < 4 * 0.008
