"""Imports point one way: `programs -> models, potentials -> smc`, and `models` and `potentials` never meet."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("feynkac", "smc", "models", "potentials", "programs")
HEAVY = ("torch", "transformers", "diffusers")


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "feynkac" else ("feynkac", *parts)).removesuffix(".__init__")


MODULES = {name_of(file): file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))}


def running(node: ast.AST) -> Iterator[ast.AST]:
    """What may run below `node`: everything but the bodies of `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            child = ast.Module(child.orelse, [])
        yield child
        yield from running(child)


def imported(source: str, module: str = "") -> set[str]:
    """The modules that `source` may import when it runs, inside functions or not, and by relative names, too."""
    names = set()
    for node in running(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            # `from package import module` imports the module
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in MODULES}
    return names


IMPORTS = {module: imported(file.read_text(encoding="utf-8"), module) for module, file in MODULES.items()}


def below(name: str, *parents: str) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def reached(module: str) -> set[str]:
    """The modules of feynkac that `module` imports, by way of others, too."""
    seen, todo = set[str](), [module]
    while todo:
        new = {name for name in IMPORTS[todo.pop()] if name in MODULES} - seen
        seen |= new
        todo.extend(new)
    return seen


def of(folder: str) -> list[str]:
    return [module for module in MODULES if below(module, f"feynkac.{folder}")]


@pytest.mark.parametrize("module", of("smc"))
def test_the_engine_knows_nothing_of_models_and_potentials(module: str) -> None:
    outer = [f"feynkac.{folder}" for folder in ("models", "potentials", "programs")]
    assert not [name for name in IMPORTS[module] | reached(module) if below(name, *outer, *HEAVY)]


@pytest.mark.parametrize("module", of("models"))
def test_models_never_import_potentials(module: str) -> None:
    assert not [name for name in reached(module) if below(name, "feynkac.potentials", "feynkac.programs")]


@pytest.mark.parametrize("module", of("potentials"))
def test_potentials_never_import_models(module: str) -> None:
    assert not [name for name in reached(module) if below(name, "feynkac.models", "feynkac.programs")]


def test_the_walk_sees_every_way_to_import() -> None:
    source = """
if TYPE_CHECKING:
    import feynkac.models.language.shared_cache
else:
    import a
def f():
    from feynkac.models.language import lm
    if x:
        from .near import y
"""
    found = imported(source, "feynkac.potentials.here")
    assert found == {"a", "feynkac.models.language", "feynkac.models.language.lm", "feynkac.potentials.near"}
    assert "feynkac.base.contract" in reached("feynkac.potentials.base")
