"""What a user gave is quoted by `errors.quote`: `repr` and `!r` may raise, hang, or fill pages.

And a path is asked for by `os.path`: before Python 3.14, `Path.exists` and its like raise for a name that is too
long, and for a folder that is closed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("feynkac", "smc", "models", "potentials", "programs")
FILES = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]


def find_faults(source: str) -> Iterator[int]:
    """Lines with `!r` outside of a `__repr__`, whose callers quote what it gives, and with `repr(...)` in a `raise`."""
    waiting: list[tuple[ast.AST, bool, bool]] = [(ast.parse(source), False, False)]
    while waiting:
        node, written, raised = waiting.pop()
        written |= isinstance(node, ast.FunctionDef) and node.name == "__repr__"
        raised |= isinstance(node, ast.Raise)
        if isinstance(node, ast.FormattedValue) and node.conversion == ord("r") and not written:
            yield node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "repr" and raised:
            yield node.lineno
        waiting += [(child, written, raised) for child in ast.iter_child_nodes(node)]


def test_messages_quote_what_a_user_gave() -> None:
    found = [f"{file.relative_to(ROOT)}:{line}" for file in FILES for line in find_faults(file.read_text("utf-8"))]
    assert not found, f"write quote(value), of feynkac.base.errors, for {{value!r}} and repr(value): {found}"


def test_a_message_that_does_not_is_found() -> None:
    assert list(find_faults('raise E(f"{x!r}")')) == list(find_faults("raise E(repr(x))")) == [1]
    assert list(find_faults('told = f"{x!r}"')) == [1]
    assert not list(find_faults('def __repr__(self):\n    return f"{self.x!r}"'))


def list_asked(source: str) -> list[int]:
    """Lines that ask a `Path` whether it is there."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and not node.args]
    asked = [call.func for call in calls if isinstance(call.func, ast.Attribute)]
    return [func.lineno for func in asked if func.attr in ("exists", "is_dir", "is_file")]


def test_whether_a_path_is_there_is_asked_without_a_fault() -> None:
    found = [f"{file.relative_to(ROOT)}:{line}" for file in FILES for line in list_asked(file.read_text("utf-8"))]
    assert not found, f"write os.path.exists(path), isdir or isfile for path.exists() and its like: {found}"
    assert list_asked("Path(x).is_file()\nos.path.isfile(x)") == [1]
