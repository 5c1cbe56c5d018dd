"""Imports point one way: each room may import only what `ROOMS` lets it, by way of others, too. No exceptions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("feynkac", "smc", "models", "potentials", "programs")
HEAVY = ("torch", "transformers", "diffusers")
ROOMS: dict[str, tuple[str, ...]] = {
    # Each room, after the rooms that it may import. This is the diagram of docs/architecture.md.
    "feynkac.base": (),
    "feynkac.smc": ("feynkac.base",),
    "feynkac.tensors": ("feynkac.base",),
    "feynkac.models.chats": ("feynkac.base",),
    "feynkac.models.language": ("feynkac.base", "feynkac.smc", "feynkac.models.chats"),
    "feynkac.models.edits": ("feynkac.models.language", "feynkac.tensors"),
    "feynkac.models.served": ("feynkac.base",),
    "feynkac.models.diffusion": ("feynkac.base", "feynkac.smc", "feynkac.tensors"),
    "feynkac.models.discrete": ("feynkac.base", "feynkac.smc", "feynkac.tensors", "feynkac.models.chats"),
    "feynkac.potentials.base": ("feynkac.base", "feynkac.smc"),
    "feynkac.potentials.rewards": ("feynkac.potentials.base",),
    "feynkac.potentials.tempering": ("feynkac.potentials.base",),
    "feynkac.potentials.constraints.automata": ("feynkac.base",),
    "feynkac.potentials.constraints.engines": ("feynkac.potentials.constraints.automata",),
    "feynkac.potentials.constraints": (
        "feynkac.potentials.base", "feynkac.potentials.constraints.automata", "feynkac.potentials.constraints.engines",
    ),
    "feynkac.potentials.compat": ("feynkac.potentials.base",),
    "feynkac.potentials.diffusion": ("feynkac.potentials.rewards", "feynkac.potentials.tempering", "feynkac.tensors"),
    "feynkac.potentials.discrete": ("feynkac.potentials.rewards", "feynkac.potentials.tempering", "feynkac.tensors"),
    "feynkac.potentials.twists": ("feynkac.potentials.constraints",),
    "feynkac.potentials": ("feynkac.potentials.rewards", "feynkac.potentials.constraints", "feynkac.potentials.compat"),
    "feynkac.programs.runtime": ("feynkac.models.language", "feynkac.models.served"),
    "feynkac.programs": ("feynkac.programs.runtime", "feynkac.potentials"),
    "feynkac.programs.compat": ("feynkac.programs",),
    "feynkac.programs.llamppl": ("feynkac.programs.compat",),
    "feynkac.results": ("feynkac.base", "feynkac.smc"),
    "feynkac.steering": ("feynkac.results", "feynkac.potentials", "feynkac.potentials.twists"),
    "feynkac.rulers": ("feynkac.steering", "feynkac.models.language"),
    "feynkac.programs.recipes": (
        "feynkac", "feynkac.programs", "feynkac.models.diffusion", "feynkac.models.discrete",
        "feynkac.potentials.diffusion", "feynkac.potentials.discrete",
    ),
    "feynkac.commands": (
        "feynkac", "feynkac.programs", "feynkac.models.diffusion", "feynkac.models.edits", "feynkac.models.language",
    ),
    "feynkac.__main__": ("feynkac.commands",),
    "feynkac": (
        "feynkac.steering", "feynkac.rulers", "feynkac.programs", "feynkac.models.diffusion", "feynkac.models.discrete",
        "feynkac.models.language",
    ),
}  # fmt: skip


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "feynkac" else ("feynkac", *parts)).removesuffix(".__init__")


MODULES = {name_of(file): file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))}


def below(name: str, *parents: str) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def room_of(module: str) -> str:
    """The smallest room that a module stands in."""
    return max((room for room in ROOMS if below(module, room)), key=len)


def let(room: str) -> set[str]:
    """The rooms that `room` may import, those that these may import among them."""
    found = set(ROOMS[room])
    return found.union(*map(let, found))


def running(node: ast.AST) -> Iterator[ast.AST]:
    """What may run below `node`: everything but the bodies of `if TYPE_CHECKING`."""
    left = list(ast.iter_child_nodes(node))
    while left:
        child = left.pop()
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            child = ast.Module(child.orelse, [])
        yield child
        left.extend(ast.iter_child_nodes(child))


def imported(source: str, module: str = "") -> set[str]:
    """The modules that `source` may import when it runs, inside functions or not, and by relative names, too."""
    names = set()
    for node in running(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            submodules = {f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in MODULES}
            # `from package import module` imports the module; what else it names is the package's own.
            names |= submodules if len(submodules) == len(node.names) else {base} | submodules
    return names


def imports_of(module: str) -> set[str]:
    return imported(MODULES[module].read_text(encoding="utf-8"), module)


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_what_it_may(module: str) -> None:
    room = room_of(module)
    allowed = {room} | let(room)
    upward = [name for name in imports_of(module) if name in MODULES and room_of(name) not in allowed]
    assert upward == [], f"{module} stands in {room}"


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_is_above_itself(room: str) -> None:
    assert room not in let(room)


@pytest.mark.parametrize("module", [name for name in MODULES if below(name, "feynkac.smc", "feynkac.base")])
def test_the_engine_knows_no_tensors(module: str) -> None:
    assert not [name for name in imports_of(module) if below(name, *HEAVY)]


def test_the_walk_sees_every_way_to_import() -> None:
    source = """
if TYPE_CHECKING:
    import feynkac.models.cache
else:
    import a
def f():
    from feynkac.models.language import lm
    from feynkac.smc.engine import smc
    if x:
        from .near import y
"""
    found = imported(source, "feynkac.potentials.here")
    assert found == {"a", "feynkac.models.language.lm", "feynkac.smc.engine", "feynkac.potentials.near"}
    assert {"feynkac.base", "feynkac.smc"} < let("feynkac.steering") and "feynkac.programs" not in let(
        "feynkac.steering"
    )
    assert room_of("feynkac.potentials.base") == "feynkac.potentials.base" and room_of("feynkac.cli") == "feynkac"
